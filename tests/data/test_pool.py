"""The pool: which rows are shown with a prompt, and never the prompt's own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.config import (
    CompletionSource,
    DataConfig,
    DemonstrationSource,
    MethodConfig,
    OnBadRow,
    PoolConfig,
    Retriever,
    Target,
    TeacherConfig,
    TeacherContext,
)
from sdft_ray.conversation import Message, ToolCall
from sdft_ray.data.dataset import read_dataset
from sdft_ray.data.pool import Pool, open_pool
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.stream import ExampleStream
from sdft_ray.data.tokenized import TokenizedDataset
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.examples import Example
from tests.tiny import make_tiny_tokenizer

ROWS = [
    {"prompt": "Which port has the billing host?", "demonstration": "Port 7443.", "id": "billing"},
    {"prompt": "Which port has the mail host?", "demonstration": "Port 25.", "id": "mail"},
    {"prompt": "What colour is the sky?", "demonstration": "Blue.", "id": "sky"},
    {"prompt": "What colour is grass?", "demonstration": "Green.", "id": "grass"},
]
SHOWN = ["demonstration"]
SFT = MethodConfig(name="sft", completion=CompletionSource.DEMONSTRATION, target=Target.TOKEN)


def example(name: str, question: str, demonstration: str = "A.", **fields: Any) -> Example:
    return Example(
        example_id=name, prompt=(Message(role="user", content=question),), demonstration=demonstration, **fields
    )


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(
    file: str,
    source_of: str = "POOL",
    method: MethodConfig | None = None,
    on_bad_row: OnBadRow = OnBadRow.ERROR,
    **pool: Any,
) -> TokenizedDataset:
    teacher = TeacherConfig(template="turns", demonstrations=DemonstrationSource[source_of], pool=PoolConfig(**pool))
    builder = PromptBuilder(make_tiny_tokenizer(), teacher)
    return read_dataset(DataConfig(source=file, on_bad_row=on_bad_row), method or MethodConfig(), builder)


def decoded(dataset: TokenizedDataset) -> dict[str, str]:
    tokenizer = make_tiny_tokenizer()
    return {row.example_id: tokenizer.decode(row.teacher_prompt_tokens) for row in dataset.rows}


def test_the_teacher_is_shown_the_nearest_other_row_with_its_question(tmp_path: Path) -> None:
    dataset = read(write(tmp_path / "a.jsonl", ROWS))
    assert [row.pool_hits[0][0] for row in dataset.rows] == ["mail", "billing", "grass", "sky"]
    assert all(score > 0 for row in dataset.rows for _, score in row.pool_hits)
    prompt = decoded(dataset)["billing"]
    assert prompt.index("the mail host?") < prompt.index("Port 25.") < prompt.index("the billing host?")
    assert "7443" not in prompt
    assert "pool           4 rows of" in dataset.notes[0] and "1 by BM25" in dataset.notes[0]


def test_its_own_comes_last_beside_the_question_and_the_nearest_of_the_pool_above_it(tmp_path: Path) -> None:
    prompt = decoded(read(write(tmp_path / "a.jsonl", ROWS), "OWN_AND_POOL", num=2))["billing"]
    assert prompt.index("Port 25.") < prompt.index("Port 7443.")
    assert prompt.count("billing host?") == 2, "above its demonstration, and as the question"


def test_rows_without_a_demonstration_are_taught_from_the_pool(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [*ROWS, {"prompt": "Which port has the chat host?", "id": "chat"}])
    for source_of in ("POOL", "OWN_AND_POOL"):
        dataset = read(source, source_of)
        assert len(dataset.rows) == 5
        assert dataset.rows[4].demonstration_tokens == ()
        assert dataset.rows[4].pool_hits[0][0] in ("billing", "mail")
        assert "chat" not in {name for row in dataset.rows for name, _ in row.pool_hits}
    with pytest.raises(DataError, match="line 5: has no column demonstration"):
        read(source, "OWN")
    with pytest.raises(DataError, match=r"line 5: has no column demonstration.*method=sft learns each row's own"):
        read(source, "POOL", SFT)


@pytest.mark.parametrize("retriever", Retriever)
def test_the_own_prompt_is_left_out_also_where_another_file_holds_it(tmp_path: Path, retriever: Retriever) -> None:
    others = [{"prompt": row["prompt"].replace(" ", "\n "), "demonstration": "Seen."} for row in ROWS]
    others = [row | {"id": f"{number}-other"} for number, row in enumerate(others * 3)]
    with_system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ROWS[0]["prompt"]}]
    others.append({"prompt": with_system, "demonstration": "Seen.", "id": "spoken"})
    data, pool = write(tmp_path / "a.jsonl", ROWS), write(tmp_path / "b.jsonl", others)
    for num in (1, 2, 3):
        rows = read(data, source=pool, retriever=retriever, num=num).rows
        for number, row in enumerate(rows):
            assert len(row.pool_hits) == num or (retriever is Retriever.BM25 and row.pool_hits)
            assert not {f"{number}-other", f"{number + 4}-other", "spoken"} & {name for name, _ in row.pool_hits}
    with pytest.raises(ConfigError, match=r"teacher\.pool\.num=4: .*b\.jsonl has 4 rows of different prompts"):
        read(data, source=pool, retriever=retriever, num=4)
    [nearest, *_] = read(data, source=pool, exclude_own=False).rows
    assert nearest.pool_hits[0][0] == "0-other"


STRANGE = {"prompt": "Wie weit?", "id": "strange"}


def test_a_row_that_shares_no_word_with_the_pool_is_refused_or_left_out(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [*ROWS, STRANGE])
    with pytest.raises(DataError, match=r"line 5: example 'strange' shares no word .*retriever=RANDOM.*SKIP") as error:
        read(source)
    assert "of its own" not in str(error.value)
    with pytest.raises(DataError, match="'strange' shares no word .* and has no demonstration of its own, so"):
        read(source, "OWN_AND_POOL")
    dataset = read(source, on_bad_row=OnBadRow.SKIP, num=3)
    assert "strange" not in dataset.rows.example_ids
    assert "4 of 5 prompts are shown fewer rows, since no others share a word with them; 1 of th" in dataset.notes[1]
    assert len(read(source, retriever=Retriever.RANDOM).rows) == 5


def test_a_row_that_shares_no_word_with_the_pool_is_shown_its_own_alone(tmp_path: Path) -> None:
    dataset = read(write(tmp_path / "a.jsonl", [*ROWS, STRANGE | {"demonstration": "Weit."}]), "OWN_AND_POOL")
    assert dataset.rows[4].pool_hits == ()
    assert "Weit." in decoded(dataset)["strange"] and "Port" not in decoded(dataset)["strange"]
    assert "1 of 5 prompts are shown fewer rows" in dataset.notes[1]


def test_a_row_with_a_conversation_of_its_teachers_is_shown_nothing_of_the_pool(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "The host has port 7443. Which port?"}]
    dataset = read(write(tmp_path / "a.jsonl", [*ROWS[1:], ROWS[0] | {"teacher_messages": turns}]))
    assert [len(row.pool_hits) for row in dataset.rows] == [1, 1, 1, 0]


def test_what_is_shown_depends_on_the_seed_and_the_row_not_on_its_place() -> None:
    examples = [example(f"e{number}", f"question {number}?") for number in range(60)]
    settings = PoolConfig(retriever=Retriever.RANDOM, num=2)
    pool = Pool(examples, settings, source="here", fields=["demonstration"])
    filled = pool.fill(examples)
    assert pool.fill(examples[::-1])[::-1] == filled
    assert pool.fill(examples[7:9]) == filled[7:9]
    other = Pool(examples, replace(settings, seed=1), source="here", fields=["demonstration"]).fill(examples)
    assert [e.pool_hits for e in other] != [e.pool_hits for e in filled]
    drawn = {hit.example_id for e in filled for hit, _ in e.pool_hits}
    assert len(drawn) > 40, "every row can be drawn"


def test_what_is_shown_goes_with_the_example_and_a_checkpoint_refuses_another_choice(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROWS * 1)

    def stream(**pool: Any) -> ExampleStream:
        return ExampleStream(read(source, **pool).rows, batch_size=2, seed=0, max_new_tokens=4)

    first = next(stream())
    assert first.pool_hits and first.pool_hits == next(stream()).pool_hits
    state = stream().state_at(2)
    stream().load_state(state)
    with pytest.raises(Exception, match="examples would not go on"):
        stream(retriever=Retriever.RANDOM, seed=3).load_state(state)


def test_a_thousand_rows_with_one_prompt_are_one_row_of_the_pool() -> None:
    examples = [example(f"same-{number}", "The same?") for number in range(1000)] + [
        example("other", "Another, or the same?")
    ]
    pool = Pool(examples, PoolConfig(), source="here", fields=["demonstration"])
    assert {hit.example_id for e in pool.fill(examples[:1000]) for hit, _ in e.pool_hits} == {"other"}
    assert pool.fill(examples[1000:])[0].pool_hits[0][0].example_id == "same-0"


ALIKE = [
    ("What is the capital of Veldra?", "what is the  capital of veldra"),
    ("Wie heißt der Fluß?", "WIE HEISST DER FLUSS"),
    ("Send an e-mail, please.", "send an email please!"),
    ("首都是什么？", "首都是什么"),
    ("Is it 7?", "is it 7"),
    ("Cafe\u0301?", "Café"),
]
UNLIKE = [
    ("What is 12-3?", "What is 1-23?"),
    ("What is 12 - 3?", "What is 12 * 3?"),
    ("What is -5 + 3?", "What is 5 + 3?"),
    ("What is 1.5?", "What is 15?"),
    ("Add 1 2.", "Add 12."),
    ("Is a < b?", "Is a > b?"),
    ("?!", "..."),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_a_prompt_written_in_another_way_is_the_rows_own(one: str, other: str) -> None:
    pool = Pool([example("twin", other), example("rest", f"{one} Or not?")], PoolConfig(), source="", fields=SHOWN)
    [asked] = pool.fill([example("asked", one)])
    assert [hit.example_id for hit, _ in asked.pool_hits] == ["rest"]
    assert pool.fill([example("asked", other)])[0].pool_hits[0][0].example_id == "rest"


@pytest.mark.parametrize(("one", "other"), UNLIKE)
def test_prompts_that_differ_in_a_sign_or_a_number_are_two(one: str, other: str) -> None:
    settings = PoolConfig(exclude_own=True, retriever=Retriever.RANDOM)
    pool = Pool([example("one", one), example("other", other)], settings, source="", fields=SHOWN)
    assert [e.pool_hits[0][0].example_id for e in pool.fill([example("a", one), example("b", other)])] == [
        "other",
        "one",
    ]


def test_prompts_differ_by_their_calls_and_tools_and_not_by_a_developers_instructions() -> None:
    def calling(name: str, city: str, instruction: str = "Be brief.", tools: str = "") -> Example:
        call = Message(
            role="assistant", content="", tool_calls=(ToolCall(name="find", arguments=f'{{"at": "{city}"}}'),)
        )
        turns = (Message(role="developer", content=instruction), Message(role="user", content="Is it near?"), call)
        prompt = (*turns, Message(role="tool", content="Found."))
        return Example(example_id=name, prompt=prompt, demonstration="Yes.", tools=tools)

    rows = [calling("oslo", "Oslo"), calling("rome", "Rome"), calling("other tools", "Rome", tools="[{}]")]
    again = calling("again", "Oslo", instruction="Rome Rome Rome.")
    pool = Pool([*rows, again], PoolConfig(num=1), source="own", fields=["demonstration"])
    assert pool.notes([])[0].startswith("pool           3 rows of own")
    keeping = Pool(rows, PoolConfig(num=1, exclude_own=False), source="own", fields=["demonstration"])
    [asked] = keeping.fill([again])
    assert [hit.example_id for hit, _ in asked.pool_hits] == ["oslo"]


def test_rows_of_articles_are_found_by_their_text(tmp_path: Path) -> None:
    articles = [{"text": "Grass is green."}, {"text": "The sky is blue."}, {"prompt": "Nothing to show?"}]
    settings = PoolConfig(source=write(tmp_path / "a.jsonl", articles))
    pool = open_pool(settings, DataConfig(), fields=["demonstration", "text"])
    [found] = pool.fill([example("q", "What colour has the sky?")])
    assert [hit.text for hit, _ in found.pool_hits] == ["The sky is blue."]
    with pytest.raises(ConfigError, match=r"teacher\.pool\.num=1: .* has 0 rows of different prompts with a demonstr"):
        open_pool(settings, DataConfig(), fields=["demonstration"])


def test_errors_of_a_pools_source_begin_with_its_setting(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(ConfigError, match=r"^teacher\.pool\.source=.*no such file"):
        read(file, source=f"{tmp_path}/none.jsonl")
    with pytest.raises(DataError, match=r"^teacher\.pool\.source: .*bad\.jsonl, line 1: demonstration is a number"):
        read(file, source=write(tmp_path / "bad.jsonl", [{"prompt": "Q?", "demonstration": 5}]))


def test_too_small_a_pool_is_refused_with_a_remedy_that_helps(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", ROWS)
    one = write(tmp_path / "one.jsonl", ROWS[:1])
    for number in (1, 3):
        with pytest.raises(ConfigError, match=r"own; set teacher\.pool\.source to more rows with a demonstration"):
            read(file, source=one, num=number)
    with pytest.raises(ConfigError, match=r"own; lower it, or set teacher\.pool\.source to more rows"):
        read(file, num=30)


def test_without_a_source_the_pool_is_the_training_data_as_selected(tmp_path: Path) -> None:
    data = DataConfig(source=write(tmp_path / "a.jsonl", ROWS), num_examples=3)
    pool = open_pool(PoolConfig(), data, fields=["demonstration"])
    assert "3 rows of" in pool.notes([])[0]


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"context": TeacherContext.TEXT}, r"teacher\.demonstrations=POOL: takes.*teacher\.context=TEXT shows none"),
        (
            {"demonstrations": DemonstrationSource.OWN_AND_POOL, "pool": PoolConfig(exclude_own=False)},
            r"teacher\.pool\.exclude_own=False: would show a row's own demonstration twice",
        ),
    ],
)
def test_a_pool_that_shows_nothing_or_the_own_twice_is_refused(teacher: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TeacherConfig(**({"demonstrations": DemonstrationSource.POOL} | teacher))


def test_a_number_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.pool\.num=0: must be at least 1"):
        PoolConfig(num=0)
