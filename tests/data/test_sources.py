"""Sources give examples, or a refusal that names the row."""

import datetime
import json
from pathlib import Path

import datasets
import pytest

from sdft_ray.config import OnBadRow
from sdft_ray.conversation import Message
from sdft_ray.data.readers import Selection
from sdft_ray.data.rows import RowRules
from sdft_ray.data.sources import load_rows, split_source
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.examples import Example
from tests.examples import load_examples

ROW = {"prompt": "What is new?", "demonstration": "Nothing."}


RULES = RowRules(columns={}, system="", required=("prompt", "demonstration"))


def write(path: Path, *rows: object) -> str:
    path.write_bytes(b"".join(as_line(row) + b"\n" for row in rows))
    return str(path)


def as_line(row: object) -> bytes:
    if isinstance(row, bytes):
        return row
    return (row if isinstance(row, str) else json.dumps(row)).encode()


def read(source: str, **settings: object) -> list[Example]:
    defaults: dict[str, object] = {"split": "train", "columns": {}, "system": "", "num_examples": 0}
    return load_examples(source, **(defaults | settings))  # type: ignore[arg-type]


def user(content: str) -> Message:
    return Message(role="user", content=content)


def test_json_lines_give_one_example_a_line(tmp_path: Path) -> None:
    full = ROW | {"id": 7, "text": "The article.", "answer": "Nothing"}
    source = write(tmp_path / "a.jsonl", ROW, full)
    first, second = read(source)
    assert first == Example(example_id="line-1", prompt=(user("What is new?"),), demonstration="Nothing.")
    assert (second.example_id, second.text, second.answer) == ("7", "The article.", "Nothing")


def test_a_prompt_may_be_a_conversation(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "What is new?", "name": None},
    ]
    [example] = read(write(tmp_path / "a.jsonl", ROW | {"prompt": turns}))
    assert [message.role for message in example.prompt] == ["system", "user", "assistant", "user"]
    assert example.prompt[-1] == user("What is new?")


def test_a_list_of_demonstrations_or_texts_is_joined_with_newlines(tmp_path: Path) -> None:
    row = ROW | {"demonstration": ["Call a.", "Call b."], "text": ["One.", "Two."]}
    [example] = read(write(tmp_path / "a.jsonl", row))
    assert (example.demonstration, example.text) == ("Call a.\nCall b.", "One.\nTwo.")


def test_columns_rename_ours_to_the_datas(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"query": "Q?", "golden_response": ["A."], "key": "x"})
    [example] = read(source, columns={"prompt": "query", "demonstration": "golden_response", "id": "key"})
    assert example == Example(example_id="x", prompt=(user("Q?"),), demonstration="A.")


def test_the_system_message_comes_before_every_prompt(tmp_path: Path) -> None:
    [example] = read(write(tmp_path / "a.jsonl", ROW), system="Be brief.")
    assert example.prompt == (Message(role="system", content="Be brief."), user("What is new?"))


def test_only_the_first_examples_are_read_when_a_number_is_given(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROW, ROW, "not JSON")
    assert [example.example_id for example in read(source, num_examples=2)] == ["line-1", "line-2"]


def test_evaluation_examples_need_no_demonstration(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"prompt": "Q?", "answer": "A"})
    [example] = read(source, required=("prompt",))
    assert (example.demonstration, example.answer) == ("", "A")


def test_answers_that_are_lists_or_objects_become_json_text(tmp_path: Path) -> None:
    row = ROW | {"answer": [{"Action": "f", "Action_Input": "{}"}], "acceptable": {"città": ["Oslo", ""]}}
    [example] = read(write(tmp_path / "a.jsonl", row))
    assert json.loads(example.answer) == row["answer"]
    assert example.acceptable == '{"città": ["Oslo", ""]}'


@pytest.mark.parametrize(("answer", "text"), [(18, "18"), (3.5, "3.5"), (True, "true")])
def test_an_answer_that_is_a_number_or_a_truth_is_its_json_text(tmp_path: Path, answer: object, text: str) -> None:
    [example] = read(write(tmp_path / "a.jsonl", ROW | {"answer": answer}))
    assert example.answer == text


NESTED = {"name": "f", "arguments": {"where": {"city": "Oslo", "zip": None}}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer": 5.0}, "answer is a number: '5.0'; make it a string"),
        ({"answer": [NESTED]}, r"answer has null for '\[0\]\.arguments\.where\.zip'.*write the whole as JSON text"),
        ({"acceptable": {"city": None}}, "acceptable has null for 'city'"),
        ({"answer": ["\ud800"]}, "answer holds a lone surrogate.*write the whole"),
        ({"answer": "\ud800"}, "answer holds a lone surrogate"),
    ],
)
def test_an_answer_that_a_table_has_altered_or_nothing_can_write_is_refused(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=f"a.jsonl, line 2: {message}"):
        read(write(tmp_path / "a.jsonl", ROW, ROW | fields))


def test_an_answer_that_is_a_date_is_refused_where_it_is_read(tmp_path: Path) -> None:
    datasets.Dataset.from_list([ROW | {"answer": datetime.date(2026, 1, 1)}]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1: answer is a date: .*; make it a string"):
        read(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    "fields", [{"answer": 5.0}, {"answer": {"a": None}}, {"acceptable": 1.5}, {"context": "In 2000."}]
)
def test_what_nothing_reads_may_be_anything_and_a_context_is_said(tmp_path: Path, fields: dict[str, object]) -> None:
    loaded = load_rows(write(tmp_path / "a.jsonl", ROW | fields), Selection(), RULES)
    assert [(each.answer, each.acceptable, each.context) for each in loaded.examples] == [("", "", "")]
    assert ["not read: context" in note for note in loaded.notes("", 0)] == [True] * ("context" in fields)


@pytest.mark.parametrize("key", ["context", "text", "tools", "teacher_messages", "demonstrations"])
def test_a_column_under_no_name_is_not_read(tmp_path: Path, key: str) -> None:
    source = write(tmp_path / "a.jsonl", ROW | {key: 3})
    with pytest.raises(DataError, match=f"line 1: {key} is a number: '3'"):
        read(source)
    assert read(source, columns={key: ""}) == read(write(tmp_path / "b.jsonl", ROW))


def test_a_key_that_every_row_has_to_have_cannot_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: data\.columns\.demonstration='' leaves out the demonstration, and"):
        read(write(tmp_path / "a.jsonl", ROW), columns={"demonstration": ""})


def test_a_context_may_be_json_text(tmp_path: Path) -> None:
    [example] = read(write(tmp_path / "a.jsonl", ROW | {"context": '{"feedback": "No.", "none": null}'}))
    assert json.loads(example.context) == {"feedback": "No."}


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", "", ROW, " \t", "\r", ROW | {"prompt": "Who?"}, "", "")
    assert [each.example_id for each in read(source)] == ["line-2", "line-5"]


def test_unusual_line_separators_inside_a_string_do_not_split_the_row(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", json.dumps(ROW | {"text": "a\u2028b"}, ensure_ascii=False), ROW)
    assert [example.text for example in read(source)] == ["a\u2028b", ""]


def test_the_first_three_rows_that_are_left_out_are_shown(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROW, *["{"] * 5, ROW | {"prompt": "Why?"})
    [note] = load_rows(source, Selection(), RULES, OnBadRow.SKIP).notes("data.num_examples", 0)
    assert note.startswith(f"{source}: 5 bad rows are left out (on_bad_row=SKIP): {source}, line 2: is not JSON")
    assert "line 4: " in note and "line 5: " not in note


def test_where_no_row_is_good_the_first_refusal_is_the_error(tmp_path: Path) -> None:
    message = "line 1: is not JSON.* All 2 rows are bad: data.on_bad_row=SKIP leaves none"
    with pytest.raises(DataError, match=message):
        load_rows(write(tmp_path / "a.jsonl", "{", "["), Selection(), RULES, OnBadRow.SKIP)


def test_repeated_rows_and_a_number_beyond_the_data_are_said(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROW, ROW | {"prompt": "Why?"}, *[ROW] * 7)
    beyond, repeated = load_rows(source, Selection(num_examples=20), RULES).notes("data.num_examples", 20)
    assert beyond == f"data.num_examples=20: {source} has 9 rows, all are taken"
    assert repeated == f"{source}: 7 rows repeat an earlier one (first: line 3 is line 1)"
    assert load_rows(source, Selection(num_examples=2), RULES).notes("data.num_examples", 2) == []


def test_columns_that_nothing_reads_are_said(tmp_path: Path) -> None:
    rows = [{"question": "Q?", "hint": "Haus", "level": 1} | ROW, ROW | {"remark": "Be brief."}]
    rules = RowRules(columns={"prompt": "question"}, system="", required=("prompt",), shared_columns=True)
    source = write(tmp_path / "a.jsonl", *rows[:1], rows[1] | {"question": "R?"})
    [note] = load_rows(source, Selection(filter={"level": 1}), rules).notes("data.num_examples", 0)
    assert note == f"{source}: of its rows these columns are not read: hint, prompt, remark"


@pytest.mark.parametrize("is_beside_messages", [False, True])
def test_conversations_are_read_unless_there_are_messages(tmp_path: Path, is_beside_messages: bool) -> None:
    turns = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]
    row = {"conversations": turns, **({"messages": turns} if is_beside_messages else {})}
    notes = load_rows(write(tmp_path / "a.jsonl", row), Selection(), RULES).notes("", 0)
    assert ["not read: conversations" in note for note in notes] == [True] * is_beside_messages


def test_a_repeated_row_is_named_with_its_file_where_there_are_several(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, ROW) for name in ("a.jsonl", "b.jsonl"))
    [note] = load_rows(f"{first},{second}", Selection(), RULES).notes("data.num_examples", 0)
    assert note.endswith(f"(first: line 1 of {second} is line 1 of {first})")


def test_the_first_rows_of_a_file_can_be_named_in_its_source(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROW, ROW, "not JSON")
    assert len(read(f"{source}[:2]")) == 2


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.jsonl", ROW)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match=r"data\.source=.*cannot be read \(Permission denied\)"):
        read(source)


def test_columns_of_other_data_may_be_absent(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"prompt": "Q?", "answer": "A"})
    rules = RowRules(columns={"demonstration": "golden"}, system="", required=("prompt",), shared_columns=True)
    [example] = load_rows(source, Selection(split="test"), rules).examples
    assert example.demonstration == ""


def test_a_column_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1: has no column article.*data.columns.text"):
        read(write(tmp_path / "a.jsonl", ROW), columns={"text": "article"})


def test_a_system_column_is_the_rows_system_message_and_an_empty_one_is_none(tmp_path: Path) -> None:
    conversation = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]}
    source = write(tmp_path / "a.jsonl", ROW | {"system": "Be a pirate."}, ROW | {"system": " "}, conversation)
    first, second, third = read(source)
    assert first.prompt == (Message(role="system", content="Be a pirate."), user("What is new?"))
    assert (second.prompt, third.prompt) == ((user("What is new?"),), (user("Who?"),))
    assert len(read(source, columns={"system": ""})[0].prompt) == 1
    with pytest.raises(DataError, match=r"line 1: system is a system message, and data\.system gives another"):
        read(source, system="Be brief.")


@pytest.mark.parametrize("columns", [{"input": ""}, {"text": "input"}, {"prompt": "input"}])
def test_an_input_is_read_or_left_out_where_the_columns_say_so(tmp_path: Path, columns: dict[str, str]) -> None:
    assert read(write(tmp_path / "a.jsonl", ROW | {"input": "Good morning"}), columns=columns)
    assert read(write(tmp_path / "b.jsonl", ROW | {"input": " ", "image": None, "images": []}))


def test_two_system_messages_are_refused(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q?"}]
    with pytest.raises(DataError, match=r"line 1: .*data\.system gives another; leave data\.system empty"):
        read(write(tmp_path / "a.jsonl", ROW | {"prompt": turns}), system="Be kind.")


def test_a_second_row_of_one_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 3: id 'a' is also that of line 1"):
        read(write(tmp_path / "a.jsonl", ROW | {"id": "a"}, ROW, ROW | {"id": "a"}))


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match="not a single row"):
        read(str(tmp_path / "a.jsonl"))


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json.dumps(ROW).encode() + b'\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(DataError, match="line 2: is not UTF-8"):
        read(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("name", ["missing.jsonl", "./missing", "/no/such/folder", "a/b/c"])
def test_a_missing_file_is_refused_before_the_hub_is_asked(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.source=.*no such file or folder"):
        read(name)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("prompt,demonstration\n")
    with pytest.raises(ConfigError, match=r"data\.source=.*a\.txt: is of no kind that can be read; give builtin:NAME"):
        read(str(tmp_path / "a.txt"))


def test_a_packed_table_is_of_no_kind_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").touch()
    with pytest.raises(ConfigError, match="is of no kind that can be read"):
        read(str(tmp_path / "a.parquet.gz"))


def test_an_unknown_key_in_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.columns=.*unknown key promt; use id, prompt"):
        read(write(tmp_path / "a.jsonl", ROW), columns={"promt": "query"})


def test_a_saved_data_set_is_read_with_and_without_splits(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": "Q?"}], "demonstration": ["A.", "B."]}])
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": data}).save_to_disk(str(tmp_path / "many"))
    expected = [Example(example_id="line-1", prompt=(user("Q?"),), demonstration="A.\nB.")]
    assert read(str(tmp_path / "one")) == expected
    assert read(f"{tmp_path}/many:test") == expected
    assert read(f"{tmp_path}/many:test[:1]") == expected
    datasets.concatenate_datasets([data, data.map(lambda row: {"id": "b"})]).save_to_disk(str(tmp_path / "two"))
    assert len(read(f"{tmp_path}/two[:1]")) == len(read(f"{tmp_path}/two:train[:1]")) == 1
    with pytest.raises(ConfigError, match=r"data\.split=train: .*no such split; choose one of test"):
        read(str(tmp_path / "many"))


def test_a_folder_without_a_saved_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no saved data set"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("builtin:facts", ("builtin:facts", "train")),
        ("builtin:facts:ood", ("builtin:facts", "ood")),
        ("a/b.jsonl", ("a/b.jsonl", "train")),
        ("a/b.jsonl[:4]", ("a/b.jsonl", "[:4]")),
        ("squad", ("squad", "train")),
        ("squad:validation", ("squad", "validation")),
        ("owner/name:train[:100]", ("owner/name", "train[:100]")),
    ],
)
def test_a_split_at_the_end_of_a_source_overrides_the_split(source: str, expected: tuple[str, str]) -> None:
    assert split_source(source, "train") == expected


def test_a_path_that_exists_keeps_its_colon(tmp_path: Path) -> None:
    source = write(tmp_path / "a:b.jsonl", ROW)
    assert split_source(source, "train") == (source, "train")


def test_rows_of_a_file_other_than_its_first_are_refused_by_name(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROW)
    for part in ("[2:4]", "[:50%]", "[1]", "[2:]"):
        with pytest.raises(ConfigError, match=r"takes no rows of a file: only its first N.*a\.jsonl\[:4\]; name these"):
            read(source + part)


def test_a_split_of_a_json_lines_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no splits; set data\.source=a\.jsonl"):
        split_source("a.jsonl:test", "train")


@pytest.mark.parametrize(
    "source",
    ["facts:train", "facts:taught", "facts:test", "facts:ood", "tools:train", "tools:test", "prior:test"],
)
def test_every_built_in_set_is_well_formed(source: str) -> None:
    examples = read(f"builtin:{source}")
    assert all(example.prompt[-1].role == "user" and example.demonstration for example in examples)


@pytest.mark.parametrize("source", ["builtin:fakts", "builtin:facts:dev"])
def test_an_unknown_built_in_set_or_split_is_refused_with_those_there_are(source: str) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.source=builtin:.*no (built-in set|split).*(facts, tools|taught, train)"
    ):
        read(source)


def test_a_list_of_demonstrations_begins_with_the_rows_own(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a.jsonl",
        {"prompt": "What is new?", "demonstrations": ["Nothing.", "Little.", "Nothing."]},
        ROW | {"demonstrations": ["Little.", "Nothing."]},
        {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}]}
        | {"demonstrations": ["Ha."]},
    )
    listed, both, spoken = read(source)
    for example in (listed, both):
        assert (example.demonstration, example.further_demonstrations) == ("Nothing.", ("Little.",))
    assert (spoken.demonstration, spoken.further_demonstrations) == ("Ho.", ("Ha.",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"demonstrations": []}, "demonstrations is empty"),
        ({"demonstrations": ["Yes.", " "]}, r"demonstrations\[1\] is empty"),
        ({"demonstrations": "Yes."}, "demonstrations is a string: 'Yes.'; make it a list of strings"),
        ({"demonstrations": ["Yes.", 3]}, "demonstrations is a list"),
        ({"demonstrations": ["\ud800"]}, "demonstrations holds a lone surrogate"),
        ({"context": "Too long."}, "context is a string: 'Too long.'; make it an object of named fields"),
        ({"context": ["Too long."]}, "context is a list"),
        ({"context": {"feedback": "\ud800"}}, "lone surrogate"),
    ],
)
def test_malformed_demonstrations_and_contexts_are_refused_by_their_line(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=f"a.jsonl, line 2: .*{message}"):
        read(write(tmp_path / "a.jsonl", ROW, ROW | fields))


def test_a_context_is_its_fields_without_those_that_are_null(tmp_path: Path) -> None:
    given = {"feedback": "Zu lang.", "score": 0.5, "hints": ["a", "b"], "none": None}
    [example] = read(write(tmp_path / "a.jsonl", ROW | {"context": given}))
    assert json.loads(example.context) == {"feedback": "Zu lang.", "score": 0.5, "hints": ["a", "b"]}


def test_a_context_of_a_table_that_json_cannot_write_is_refused(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([ROW | {"context": {"made": datetime.date(2026, 1, 1)}}])
    rows.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 1: context cannot be written as JSON .*make it plain JSON"):
        read(str(tmp_path / "a.parquet"))
