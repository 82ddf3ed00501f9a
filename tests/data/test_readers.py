"""The same rows in every kind of file give the same examples; a broken file is refused by its name and line."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from sdft_ray.config import OnBadRow
from sdft_ray.conversation import Message
from sdft_ray.data.readers import Selection
from sdft_ray.data.rows import RowRules
from sdft_ray.data.sources import load_rows
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.examples import Example
from tests.examples import load_examples

RULES = RowRules(columns={}, system="", required=("prompt", "demonstration"))
ROWS = [
    {"id": "a", "prompt": "What is, say, new?", "demonstration": 'Nothing "at all".\nReally.', "level": "easy"},
    {"id": "b", "prompt": "Où?", "demonstration": "Là.", "level": "hard"},
    {"id": "c", "prompt": "When?", "demonstration": "Now.", "level": "easy"},
]
JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def write_csv(path: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_csv(str(path), index=False)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl": lambda path: path.write_text(JSON_LINES),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(JSON_LINES.encode())),
    "rows.ndjson": lambda path: path.write_text(JSON_LINES),
    "CAPITALS.JSONL": lambda path: path.write_text(JSON_LINES),
    "CAPITALS.JSON.GZ": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "CAPITALS.CSV": write_csv,
    "CAPITALS.PARQUET": lambda path: datasets.Dataset.from_list(ROWS).to_parquet(str(path)),
    "lines.json": lambda path: path.write_text(JSON_LINES),
    "list.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "list.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "rows.csv": write_csv,
    "rows.parquet": lambda path: datasets.Dataset.from_list(ROWS).to_parquet(str(path)),
}


def examples(source: str, **selection: Any) -> list[Example]:
    return list(load_rows(source, Selection(**selection), RULES).examples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    for name, write in WRITERS.items():
        write(folder / name)
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    next((folder / "saved").glob("*.arrow")).rename(folder / "rows.arrow")
    return folder


@pytest.mark.parametrize("name", [*WRITERS, "rows.arrow"])
def test_every_kind_of_file_gives_the_same_examples(folder: Path, name: str) -> None:
    found = examples(str(folder / name))
    assert [example.example_id for example in found] == ["a", "b", "c"]
    assert found[0].prompt == (Message(role="user", content="What is, say, new?"),)
    assert [example.demonstration for example in found] == [row["demonstration"] for row in ROWS]
    assert len(examples(f"{folder / name}[:2]")) == 2


def test_rows_are_chosen_by_the_values_of_their_columns_before_they_are_counted(folder: Path) -> None:
    for name in ("rows.jsonl", "rows.csv", "rows.parquet"):
        assert [row.example_id for row in examples(str(folder / name), filter={"level": "easy"})] == ["a", "c"]
        assert len(examples(str(folder / name), filter={"level": "easy"}, num_examples=1)) == 1
    with pytest.raises(ConfigError, match=r"data\.filter=level=odd: none of the 3 rows.*the first has level='easy'"):
        examples(str(folder / "rows.jsonl"), filter={"level": "odd"})
    with pytest.raises(ConfigError, match=r"data\.filter\.levl=easy: .* no such column; name one of id, prompt,"):
        examples(str(folder / "rows.jsonl"), filter={"levl": "easy"})


def test_a_filter_compares_numbers_and_truth_with_the_texts_of_a_csv_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,demonstration,n,good\nQ?,A.,1,true\nR?,B.,2,False\n")
    assert len(examples(str(tmp_path / "a.csv"), filter={"n": 2})) == 1
    assert [row.example_id for row in examples(str(tmp_path / "a.csv"), filter={"good": True})] == ["line-2"]
    assert [row.example_id for row in examples(str(tmp_path / "a.csv"), filter={"good": False})] == ["line-3"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("a", [0]), ("A", [1]), (True, [2, 6]), (1, [3, 4, 5]), ("1", [3, 5]), (None, [7]), ("None", [])],
)
def test_a_filter_takes_equal_values_and_their_texts_alone(tmp_path: Path, wanted: object, found: list[int]) -> None:
    levels = ["a", "A", True, 1, 1.0, "1", "True", None]
    rows = [
        {"id": number, "prompt": "Q?", "demonstration": "A.", "level": level} for number, level in enumerate(levels)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        ids = [int(row.example_id) for row in examples(str(tmp_path / "a.jsonl"), filter={"level": wanted})]
    except ConfigError:  # none
        ids = []
    assert ids == found


@pytest.mark.parametrize("source", ["{}/*.jsonl", "{}/a.jsonl,{}/b.jsonl", "{0}/a.jsonl, {0}/b.*"])
def test_several_files_are_one_source_whose_rows_keep_their_files(tmp_path: Path, source: str) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": f"{name}?", "demonstration": "A."}) + "\n")
    source = source.format(tmp_path, tmp_path)
    assert [row.example_id for row in examples(source)] == [f"{tmp_path}/{name}.jsonl-line-1" for name in "ab"]
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(DataError, match=r"b\.jsonl, line 2: is not JSON"):
        examples(source)
    loaded = load_rows(source, Selection(), RULES, OnBadRow.SKIP)
    assert [place.source for place in loaded.places] == [f"{tmp_path}/{name}.jsonl" for name in "ab"]


def test_a_file_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(JSON_LINES)
    with pytest.raises(ConfigError, match=r"names .*a\.jsonl twice; name every file once"):
        examples(f"{tmp_path}/a.jsonl,{tmp_path}/*.jsonl")


def test_one_id_in_two_files_is_refused_with_both(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(DataError, match=r"b\.jsonl, line 1: id 'a' is also that of line 1 of .*a\.jsonl"):
        examples(f"{tmp_path}/*.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"prompt,demonstration\nQ?,A.\nWhat, why?,A.\n", "line 3: the cell 'A.' stands under no name"),
        ("a.csv", b'prompt,demonstration\nQ?,A.\n"R,\n\n', "line 3: is no CSV"),
        ("a.csv", b'prompt,demonstration\n"Q?\n\n",\n', "line 2: demonstration is null"),
        ("a.csv", b"prompt;demonstration\nQ?;A.;B.\n", "line 2: the cell 'B.' stands under no name"),
        ("a.csv", b"prompt,demonstration\nQ?\n", "line 2: demonstration is null; fill it"),
        ("a.csv", b'prompt,demonstration\n"Q?,A.\n', "line 2: is no CSV"),
        ("a.csv", b"prompt,demonstration\nQ?,caf\xe9\n", "line 2: is not UTF-8"),
        ("a.csv", b"", "there is not a single row"),
        ("a.csv", b"prompt,demonstration,prompt\nQ?,A.,R?\n", "line 1: the name 'prompt' stands over two columns"),
        ("a.csv", b"question,answer\nQ?,A.\n", "line 2: has no column prompt.*columns are: question, answer"),
        ("a.json", b'[{"prompt": "Q?"},\n{"prompt" }]', "line 2: is not JSON"),
        ("a.json", b"[]", "there is not a single row"),
        (
            "a.json",
            b'{\n "data": [\n  {}\n ]\n}',
            "line 1: is one object over several lines, with the keys 'data'; write",
        ),
        ("a.json", b'{"data": [\n{}', "line 1: is not JSON"),
        ("a.json", b'{"prompt": "Q?"}', "line 1: has no column demonstration"),
        ("a.jsonl", b'{"prompt": "Q?", "demonstration": "A."}\n\n{}', "line 3: has no column prompt"),
        ("a.jsonl.gz", b"not gzip", r"a\.jsonl\.gz: cannot be read \(Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(JSON_LINES.encode())[:-9],
            r"a\.jsonl\.gz: cannot be read \(Compressed file ended",
        ),
        ("a.parquet", b"PAR1 no more", r"a\.parquet: is no \.parquet file that can be read"),
        ("a.arrow", b"ARROW no more", r"a\.arrow: is no \.arrow file that can be read"),
    ],
)
def test_a_broken_file_is_refused_by_its_name_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ConfigError, DataError), match=message):
        examples(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("excel.csv", '\ufeffprompt;demonstration\r\n"What, ""x""; why?";"A.\r\nB."\r\n'),
        ("quoted.csv", '"prompt";"demonstration";"seen, by whom"\n"What, ""x""; why?";"A.\r\nB.";I\n'),
        ("tabs.csv", 'prompt\tdemonstration\n"What, ""x""; why?"\t"A.\r\nB."\n'),
        ("tabs.tsv", 'prompt\tdemonstration\ta, b\n"What, ""x""; why?"\t"A.\r\nB."\t\n'),
        ("commas.csv", 'prompt,demonstration,,\n,,,\n"What, ""x""; why?","A.\r\nB.",,\n,,,\n\n'),
    ],
)
def test_tables_are_read_as_spreadsheets_write_them(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    [example] = examples(str(tmp_path / name))
    assert example.prompt[0].content == 'What, "x"; why?'
    assert example.demonstration == "A.\r\nB."


@pytest.mark.parametrize("source", ["rows.xlsx", "data.txt", "here/rows.tar", "a/b/c", "./rows", "rows.jsonl"])
def test_what_looks_like_a_file_is_asked_of_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"data\.source={source}: no such file or folder below"):
        examples(source)


@pytest.mark.parametrize("source", ["{}/none*.jsonl", "{}/a.jsonl,{}/none.csv", "{}/none.parquet"])
def test_a_pattern_or_list_that_stands_for_no_file_is_refused(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.jsonl").write_text(JSON_LINES)
    with pytest.raises(ConfigError, match=r"data\.source=.*no (such )?file"):
        examples(source.format(tmp_path, tmp_path))


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "What is new?"},
    {"role": "assistant", "content": "Nothing."},
]


def of_messages(tmp_path: Path, row: dict[str, Any]) -> Example:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    [example] = examples(str(tmp_path / "a.jsonl"))
    return example


def test_of_a_conversation_the_assistants_last_turn_is_the_demonstration(tmp_path: Path) -> None:
    example = of_messages(tmp_path, {"messages": CONVERSATION})
    assert [message.role for message in example.prompt] == ["system", "user", "assistant", "user"]
    assert example.demonstration == "Nothing."


def test_a_demonstration_of_its_own_goes_before_a_conversations_last_turn(tmp_path: Path) -> None:
    assert of_messages(tmp_path, {"messages": CONVERSATION, "demonstration": "All."}).demonstration == "All."
    assert of_messages(tmp_path, {"messages": CONVERSATION[:-1], "demonstration": "All."}).demonstration == "All."


@pytest.mark.parametrize(
    ("more", "columns"),
    [
        ({"prompt": "Hi."}, {}),
        ({"prompt": CONVERSATION[1:4], "demonstration": ""}, {}),
        ({"prompt": "Something else."}, {"prompt": ""}),
        ({"prompt": "Something else.", "answer": "No."}, {"prompt": "", "demonstration": "demonstration"}),
        ({}, {"prompt": "messages"}),
        ({"prompt": "Hi.", "answer": "No."}, {"messages": "dialog"}),
    ],
)
def test_a_conversation_is_read_beside_its_first_question_or_where_it_is_named(
    tmp_path: Path, more: dict[str, Any], columns: dict[str, str]
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(more | {columns.get("messages", "messages"): CONVERSATION}))
    [example] = load_examples(str(tmp_path / "a.jsonl"), columns=columns)
    assert [message.role for message in example.prompt] == ["system", "user", "assistant", "user"]
    assert example.demonstration == "Nothing."


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"prompt": "Why?"}, {}, r"has prompt and messages, which do not hold it: 'Why\?'; leave one .*prompt=''"),
        ({"prompt": "Hi.", "answer": "No."}, {}, "has no column demonstration; set data.columns.prompt='', where mess"),
        (
            {"question": "Hi."},
            {"prompt": "question"},
            "no column demonstration; set data.columns.prompt='', where mess",
        ),
        ({}, {"prompt": "none"}, "has no column none; set data.columns.prompt='', where messages are to be read"),
        ({}, {"demonstration": "gold"}, "has no column gold; leave out data.columns.demonstration=gold, to learn"),
    ],
)
def test_a_conversation_that_is_not_read_is_named_in_the_remedy(
    tmp_path: Path, row: dict[str, Any], columns: dict[str, str], message: str
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row | {"messages": CONVERSATION}))
    with pytest.raises(DataError, match=f"line 1: .*{message}"):
        load_examples(str(tmp_path / "a.jsonl"), columns=columns)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (CONVERSATION[:-1], "has no column demonstration"),
        (CONVERSATION[-1:], "messages has no turn of the user in front of the answer"),
        (
            [*CONVERSATION[:-1], {"role": "assistant", "content": None, "tool_calls": []}],
            r"the content of messages\[4\] is null",
        ),
        ([{"role": "user"}], r"the content of messages\[0\] is null"),
        ([], "messages is empty; write its turns"),
    ],
)
def test_a_conversation_without_an_answer_is_refused(tmp_path: Path, messages: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=f"line 1: {message}"):
        of_messages(tmp_path, {"messages": messages})
