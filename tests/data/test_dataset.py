"""Examples as token ids: what each method needs of them, within their budgets, and never cut."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.config import (
    CompletionSource,
    DataConfig,
    EvaluationSetConfig,
    MethodConfig,
    OnBadRow,
    Target,
    TeacherConfig,
    TeacherContext,
    TooLong,
)
from sdft_ray.conversation import Message
from sdft_ray.data.dataset import read_dataset, tokenize_examples, tokenize_texts, within_budgets
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.evaluation.questions import read_questions
from sdft_ray.examples import Example
from tests.data.families import QWEN_3, tokenizer_with
from tests.documented import ROOT
from tests.tiny import CHAT_TEMPLATE, make_tiny_tokenizer

SFT = MethodConfig(name="sft", completion=CompletionSource.DEMONSTRATION, target=Target.TOKEN)
CPT = MethodConfig(name="cpt", completion=CompletionSource.TEXT, target=Target.TOKEN)


def example(example_id: str, question: str = "Q?", demonstration: str = "A.") -> Example:
    return Example(example_id=example_id, prompt=(Message(role="user", content=question),), demonstration=demonstration)


def write(path: Path, *rows: dict[str, Any]) -> DataConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(source=str(path))


def test_examples_are_tokenized_in_order_with_all_three_token_sequences() -> None:
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig())
    examples = [example("a"), example("b", "Who?", "She.")]
    dataset = tokenize_examples(examples, builder, DataConfig())
    assert dataset.num_skipped == 0
    assert [row.example_id for row in dataset.rows] == ["a", "b"]
    assert dataset.rows[1].prompt_tokens == builder.student(examples[1])
    assert dataset.rows[1].teacher_prompt_tokens == builder.teacher(examples[1])
    assert dataset.rows[1].demonstration_tokens == builder.demonstration(examples[1])


def test_a_prompt_over_its_budget_is_refused_with_its_length() -> None:
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig())
    data = DataConfig(source="here", max_prompt_tokens=20, max_teacher_prompt_tokens=1000)
    long = example("long", "why? " * 20)
    length = len(builder.student(long))
    message = rf"here, row 2: the prompt of example 'long' has {length} tokens, data\.max_prompt_tokens=20"
    with pytest.raises(DataError, match=rf"{message}; set data\.max_prompt_tokens={length}.*too_long=SKIP"):
        within_budgets(tokenize_examples([example("short"), long], builder, data), data)


def test_a_teacher_prompt_has_a_budget_of_its_own() -> None:
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig())
    data = DataConfig(max_prompt_tokens=20, max_teacher_prompt_tokens=120)
    with pytest.raises(DataError, match=r"the teacher prompt of example 'long' has \d+ tokens, .*_tokens=120"):
        within_budgets(tokenize_examples([example("long", demonstration="well " * 60)], builder, data), data)


def test_examples_over_a_budget_are_skipped_and_counted_on_demand() -> None:
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig())
    data = DataConfig(max_prompt_tokens=20, max_teacher_prompt_tokens=120, too_long=TooLong.SKIP)
    examples = [
        example("a"),
        example("b", "why? " * 20),
        example("c", demonstration="well " * 60),
        example("d"),
    ]
    dataset = within_budgets(tokenize_examples(examples, builder, data), data)
    assert ([row.example_id for row in dataset.rows], dataset.num_skipped) == (["a", "d"], 2)
    with pytest.raises(DataError, match="all 2 examples are over"):
        within_budgets(tokenize_examples(examples[1:3], builder, data), data)


def test_an_example_without_the_text_its_teacher_needs_is_refused() -> None:
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig(context=TeacherContext.TEXT))
    with pytest.raises(DataError, match=r"row 1: example 'a' has no text, which teacher\.context shows"):
        tokenize_examples([example("a")], builder, DataConfig())


def test_a_method_without_a_teacher_makes_no_teacher_prompt(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", {"prompt": "Q?", "demonstration": "long " * 60})
    data.max_prompt_tokens, data.max_teacher_prompt_tokens = 20, 120
    [row] = read_dataset(data, SFT, PromptBuilder(make_tiny_tokenizer(), TeacherConfig())).rows
    assert row.teacher_prompt_tokens == ()
    assert len(row.demonstration_tokens) > 120


def test_only_what_the_method_uses_has_to_be_there(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", {"prompt": "Q?"})
    plain = PromptBuilder(make_tiny_tokenizer(), TeacherConfig(context=TeacherContext.NONE))
    [row] = read_dataset(data, MethodConfig(), plain).rows
    assert row.teacher_prompt_tokens == row.prompt_tokens
    assert row.demonstration_tokens == ()
    with pytest.raises(DataError, match="line 1: has no column demonstration.*teacher.demonstrations=POOL"):
        read_dataset(data, MethodConfig(), PromptBuilder(make_tiny_tokenizer(), TeacherConfig()))
    with pytest.raises(DataError, match="line 1: has no column demonstration") as refused:
        read_dataset(data, SFT, plain)
    assert "POOL" not in str(refused.value)


def test_a_text_under_context_is_refused_only_where_the_template_names_a_field(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", {"prompt": "When?", "demonstration": "2000.", "context": "In 2000."})
    plain = PromptBuilder(make_tiny_tokenizer(), TeacherConfig())
    assert [row.example_id for row in read_dataset(data, MethodConfig(), plain).rows] == ["line-1"]
    template = "{{ question }} {{ demonstration }} {{ context.hint }}"
    asking = PromptBuilder(make_tiny_tokenizer(), TeacherConfig(template=template))
    with pytest.raises(DataError, match=r"context is a string.*name another with data\.columns\.context, where ''"):
        read_dataset(data, MethodConfig(), asking)
    assert len(read_dataset(data, SFT, asking).rows) == 1


def test_a_system_message_that_the_chat_template_drops_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", {"prompt": "Q?", "demonstration": "A."})
    data.system = "Be brief."
    tokenizer = make_tiny_tokenizer()
    assert read_dataset(data, SFT, PromptBuilder(tokenizer, TeacherConfig())).rows
    tokenizer.chat_template = CHAT_TEMPLATE.replace("for message in messages", "for message in messages[-1:]")
    with pytest.raises(ConfigError, match=r"data\.system=Be brief\.: the chat template of .* leaves out system"):
        read_dataset(data, SFT, PromptBuilder(tokenizer, TeacherConfig()))


def test_rows_without_what_the_teacher_is_shown_are_left_out_on_demand_by_their_lines(tmp_path: Path) -> None:
    good, bare = {"prompt": "Q?", "demonstration": "A.", "text": "T."}, {"prompt": "Why?", "demonstration": "A."}
    data = write(tmp_path / "rows.jsonl", {"prompt": 3}, good, bare)
    data.on_bad_row = OnBadRow.SKIP
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig(context=TeacherContext.TEXT))
    dataset = read_dataset(data, MethodConfig(), builder)
    assert [row.example_id for row in dataset.rows] == ["line-2"]
    malformed, lacking = dataset.notes
    assert "line 1: prompt is a number" in malformed
    assert "line 3: example 'line-3' has no text, which teacher.context shows" in lacking


def test_what_is_odd_about_the_data_is_said(tmp_path: Path) -> None:
    rows = [{"prompt": "Q?", "demonstration": "A."}] * 8 + [{"prompt": "why? " * 30, "demonstration": "A."}]
    data = write(tmp_path / "rows.jsonl", *rows)
    data.num_examples, data.max_prompt_tokens, data.too_long = 50, 20, TooLong.SKIP
    notes = read_dataset(data, SFT, PromptBuilder(make_tiny_tokenizer(), TeacherConfig())).notes
    assert [note.removeprefix(f"{data.source}: ") for note in notes] == [
        f"data.num_examples=50: {data.source} has 9 rows, all are taken",
        "7 rows repeat an earlier one (first: line 2 is line 1)",
        "1 examples are over their token budget and are left out",
    ]


def test_raw_texts_are_learned_from_their_first_token_to_their_end(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    data = write(tmp_path / "rows.jsonl", {"text": "One text."}, {"text": "Another."}, {"text": "One text."})
    rows = read_dataset(data, CPT, PromptBuilder(tokenizer, TeacherConfig())).rows
    assert [row.example_id for row in rows] == ["line-1#0", "line-2#0"]
    assert tokenizer.decode(rows[0].demonstration_tokens[:-1]) == "One text."
    assert rows[0].demonstration_tokens[-1] == tokenizer.eos_token_id
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    assert rows[0].prompt_tokens == (start,)


def test_a_long_text_is_cut_into_pieces_of_about_one_length() -> None:
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig())
    whole = Example(example_id="a", prompt=(), demonstration="", text="word " * 40)
    rows = tokenize_texts([whole], builder, DataConfig(max_text_tokens=17)).rows
    pieces = [row.demonstration_tokens for row in rows]
    assert sum(pieces, ()) == builder.encoder.run(builder.text_encoding(whole))
    assert max(map(len, pieces)) <= 17
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    assert [row.example_id for row in rows] == [f"a#{number}" for number in range(len(pieces))]


def test_a_row_without_text_is_refused_where_texts_are_learned(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", {"text": "One."}, {"text": "  "})
    with pytest.raises(DataError, match="line 2: text is empty; write the text, or remove the row"):
        read_dataset(data, CPT, PromptBuilder(make_tiny_tokenizer(), TeacherConfig()))


def test_a_row_that_the_chat_template_alters_is_refused_with_its_line_or_left_out(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("message['content']", "message['content'].split('</think>')[-1]")
    builder = PromptBuilder(tokenizer, TeacherConfig())
    good, altered = {"prompt": "Q?", "demonstration": "A."}, {"prompt": "Q?", "demonstration": "<think>b</think>A."}
    data = write(tmp_path / "rows.jsonl", good, altered, good)
    message = r"rows\.jsonl, line 2: .*leaves out a part of the answer.*\. data\.on_bad_row=SKIP would leave"
    with pytest.raises(DataError, match=message):
        read_dataset(data, SFT, builder)
    data.on_bad_row = OnBadRow.SKIP
    dataset = read_dataset(data, SFT, builder)
    assert len(dataset.rows) == 2
    assert any("1 bad rows are left out" in note and "line 2" in note for note in dataset.notes)


SHOWN_ROWS = [
    json.loads(line)
    for page in ("data.md", "demonstrations.md")
    for block in re.findall(r"```json\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    for line in block.splitlines()
]


def teacher_of(row: dict[str, Any]) -> TeacherConfig:
    """The settings that the page names beside rows of this kind."""
    if "context" in row:
        return TeacherConfig(context=TeacherContext.FIELDS, template="{{ question }} {{ context.feedback }}")
    return TeacherConfig(context=TeacherContext.TEXT if "text" in row else TeacherContext.DEMONSTRATION)


def test_the_pages_of_the_data_show_a_row_of_every_kind() -> None:
    kinds = {"prompt", "messages", "tools", "teacher_messages", "demonstrations", "context", "text", "answer"}
    assert kinds <= {key for row in SHOWN_ROWS for key in row}


@pytest.mark.parametrize("row", SHOWN_ROWS, ids=lambda row: "-".join(row))
def test_every_row_that_the_pages_of_the_data_show_is_read_under_a_template_with_tools(
    row: dict[str, Any], tmp_path: Path
) -> None:
    data, builder = write(tmp_path / "rows.jsonl", row), PromptBuilder(tokenizer_with(QWEN_3), teacher_of(row))
    if set(row) == {"prompt", "answer"}:
        settings = EvaluationSetConfig(source=data.source)
        assert read_questions("evaluation.sets.mine", settings, data, builder).notes == []
        return
    dataset = read_dataset(data, MethodConfig(), builder)
    assert (len(dataset.rows), dataset.notes) == (1, ())
    assert dataset.rows[0].teacher_prompt_tokens != dataset.rows[0].prompt_tokens
