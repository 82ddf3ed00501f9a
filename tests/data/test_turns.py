"""Rows as services and tables have them become the same turns, whatever form their calls, texts and tools have."""

import json
from pathlib import Path

import datasets
import pytest

from sdft_ray.conversation import Message, ToolCall
from sdft_ray.errors import DataError
from sdft_ray.examples import Example
from tests.examples import load_examples

ASK = {"role": "user", "content": "How warm?"}
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": {"city": "Málaga"}}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWERS = {"role": "tool", "tool_call_id": "a", "name": "weather", "content": "3"}
REPLY = {"role": "assistant", "content": "It is cold."}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALLED = Message(
    role="assistant",
    content="",
    tool_calls=(ToolCall(name="weather", arguments='{"city": "Málaga"}', call_id="a"),),
)
ANSWERED = Message(role="tool", content="3", tool_call_id="a", name="weather")
ASKED = Message(role="user", content="How warm?")


def read(tmp_path: Path, row: object, **settings: object) -> Example:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    [example] = load_examples(str(tmp_path / "rows.jsonl"), **settings)  # type: ignore[arg-type]
    return example


def test_the_last_turn_of_a_conversation_with_tools_is_the_demonstration(tmp_path: Path) -> None:
    example = read(tmp_path, {"messages": [ASK, CALLS, ANSWERS, REPLY], "tools": [TOOL]})
    assert example.prompt == (ASKED, CALLED, ANSWERED)
    assert (example.demonstration, example.demonstration_turn) == ("It is cold.", None)
    assert json.loads(example.tools) == [TOOL]


def test_a_last_turn_that_calls_a_tool_is_the_demonstration_as_a_turn(tmp_path: Path) -> None:
    example = read(tmp_path, {"messages": [ASK, CALLS]})
    assert (example.prompt, example.demonstration_turn) == ((ASKED,), CALLED)
    assert json.loads(example.demonstration) == {"name": "weather", "arguments": {"city": "Málaga"}}
    spoken = read(tmp_path, {"messages": [ASK, CALLS | {"content": "Let me see."}]})
    assert spoken.demonstration == 'Let me see.\n{"name": "weather", "arguments": {"city": "Málaga"}}'


@pytest.mark.parametrize(
    "call",
    [
        CALL | {"function": {"name": "weather", "arguments": json.dumps({"city": "Málaga"})}},
        {"id": "a", "name": "weather", "arguments": {"city": "Málaga"}},
        CALL | {"index": 0},
    ],
)
def test_a_call_may_be_written_in_several_forms(tmp_path: Path, call: object) -> None:
    assert read(tmp_path, {"messages": [ASK, CALLS | {"tool_calls": [call]}]}).demonstration_turn == CALLED


def test_a_call_without_arguments_has_an_empty_object(tmp_path: Path) -> None:
    turn = read(tmp_path, {"messages": [ASK, CALLS | {"tool_calls": [{"function": {"name": "f"}}]}]}).demonstration_turn
    assert turn is not None and turn.tool_calls == (ToolCall(name="f", arguments="{}"),)


@pytest.mark.parametrize("content", ["", " \n", None, []])
@pytest.mark.parametrize("role", ["system", "developer"])
def test_an_instruction_without_text_is_none(tmp_path: Path, role: str, content: object) -> None:
    turns = [{"role": role, "content": content}, ASK, REPLY]
    assert read(tmp_path, {"messages": turns}) == read(tmp_path, {"messages": turns[1:]})
    assert [turn.role for turn in read(tmp_path, {"messages": turns}, system="Be brief.").prompt] == ["system", "user"]


def test_a_turn_of_full_weight_is_a_turn(tmp_path: Path) -> None:
    assert read(tmp_path, {"messages": [ASK, REPLY | {"weight": 1}]}) == read(tmp_path, {"messages": [ASK, REPLY]})


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_turns_of_from_and_value_are_those_of_role_and_content(tmp_path: Path, column: str) -> None:
    system = {"from": "system", "value": ""}
    asked, replied = {"from": "human", "value": "How warm?"}, {"from": "gpt", "value": "It is cold.", "weight": None}
    call = {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Málaga", "at": null}}'}
    answer = {"from": "observation", "value": "3"}
    own = {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": '{"city": "Málaga", "at": null}'}]}
    plain = [ASK, own, {"role": "tool", "content": "3"}, REPLY]
    assert read(tmp_path, {column: [system, asked, call, answer, replied]}) == read(tmp_path, {"messages": plain})
    assert read(tmp_path, {"prompt": "How warm?", "demonstration": [replied]}).demonstration == "It is cold."


def test_messages_go_before_conversations(tmp_path: Path) -> None:
    row = {"messages": [ASK, REPLY], "conversations": [{"from": "human", "value": "Else?"}]}
    assert read(tmp_path, row).prompt == (ASKED,)


NAMES = ("weather", "wind", "rain")


@pytest.mark.parametrize("key", ["tool_call_id", "name"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_answers_of_tools_stand_in_the_order_of_the_calls_whatever_theirs(
    tmp_path: Path, order: tuple[int, ...], key: str
) -> None:
    calls = [{"id": name * (key != "name"), "function": {"name": name}} for name in NAMES]
    answers = [{"role": "tool", key: NAMES[index], "content": str(index)} for index in order]
    turns = [ASK, CALLS | {"tool_calls": calls}, *answers, REPLY]
    assert [turn.content for turn in read(tmp_path, {"messages": turns}).prompt[2:]] == ["0", "1", "2"]


def test_answers_that_name_no_call_stand_in_their_own_order(tmp_path: Path) -> None:
    answers = [{"role": "tool", "content": text} for text in "xy"]
    turns = [ASK, CALLS | {"tool_calls": [CALL, CALL | {"id": "b"}]}, *answers, REPLY]
    assert [turn.content for turn in read(tmp_path, {"messages": turns}).prompt[2:]] == ["x", "y"]


def test_fields_of_a_context_lose_what_a_table_fills_in_at_every_depth(tmp_path: Path) -> None:
    contexts = [{"run": {"out": "1"}, "tests": [{"x": 1, "y": 2}]}, {"run": {"err": "2"}, "tests": [{"x": 1}]}]
    rows = [{"prompt": "Q?", "demonstration": "A.", "context": context} for context in contexts]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    assert [json.loads(each.context) for each in load_examples(str(tmp_path / "rows.parquet"))] == contexts


def test_a_prompt_may_end_with_the_turn_of_a_tool(tmp_path: Path) -> None:
    example = read(tmp_path, {"prompt": [ASK, CALLS, ANSWERS], "demonstration": "It is cold."})
    assert example.prompt == (ASKED, CALLED, ANSWERED)
    assert (
        read(tmp_path, {"prompt": [ASK, CALLS, ANSWERS | {"content": ""}], "demonstration": "A."}).prompt[2].text == ""
    )


@pytest.mark.parametrize("demonstration", [CALLS, [CALLS]])
def test_a_demonstration_may_be_a_turn(tmp_path: Path, demonstration: object) -> None:
    example = read(tmp_path, {"prompt": "How warm?", "demonstration": demonstration})
    assert example.demonstration_turn == CALLED
    spoken = read(tmp_path, {"prompt": "How warm?", "demonstration": REPLY})
    assert (spoken.demonstration, spoken.demonstration_turn) == ("It is cold.", None)


def test_parts_of_a_content_are_joined_by_newlines(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "How"}, {"type": "text", "text": "warm?", "image_url": None}]
    assert (
        read(tmp_path, {"prompt": [ASK | {"content": parts}], "demonstration": "A."}).prompt[0].content == "How\nwarm?"
    )


def test_conversations_and_tools_may_be_json_text_as_tables_have_them(tmp_path: Path) -> None:
    row = {"messages": [ASK, CALLS, ANSWERS, REPLY], "teacher_messages": [ASK, REPLY, ASK], "tools": [TOOL]}
    as_text = {key: json.dumps(value) for key, value in row.items()}
    assert read(tmp_path, as_text) == read(tmp_path, row)


def test_keys_that_a_table_fills_with_null_say_nothing(tmp_path: Path) -> None:
    rows = [{"messages": [ASK, CALLS], "tools": [TOOL]}, {"messages": [ASK, REPLY], "tools": None}]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    with_call, without = load_examples(str(tmp_path / "saved"))
    assert with_call.demonstration_turn == CALLED
    assert (without.demonstration, without.demonstration_turn, without.tools) == ("It is cold.", None, "")


def test_tools_lose_what_a_table_fills_in_from_the_schemas_of_other_rows(tmp_path: Path) -> None:
    wind = {"type": "object", "properties": {"place": {"type": "string", "default": None, "enum": ["a", None]}}}
    tools = [TOOL, {"type": "function", "function": {"name": "wind", "parameters": wind}}]
    rows = [{"messages": [ASK, REPLY], "tools": [tool]} for tool in tools]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    assert [json.loads(example.tools) for example in load_examples(str(tmp_path / "saved"))] == [[tools[0]], [tools[1]]]


def test_what_no_json_can_hold_is_refused_with_its_place(tmp_path: Path) -> None:
    from datetime import datetime

    call = {"function": {"name": "f", "arguments": {"when": datetime(2026, 5, 1)}}}
    datasets.Dataset.from_list([{"messages": [ASK, CALLS | {"tool_calls": [call]}]}]).save_to_disk(
        str(tmp_path / "saved")
    )
    with pytest.raises(
        DataError, match=r"saved, row 1: the arguments of messages\[1\]\.tool_calls\[0\] cannot be written as JSON"
    ):
        load_examples(str(tmp_path / "saved"))


def test_a_developer_stands_before_the_conversation_and_behind_the_system(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "A."}, {"role": "developer", "content": "B."}, ASK]
    example = read(tmp_path, {"prompt": turns, "demonstration": "A."})
    assert [turn.role for turn in example.prompt] == ["system", "developer", "user"]


def test_a_named_demonstration_goes_before_the_last_turn(tmp_path: Path) -> None:
    row = {"messages": [ASK, REPLY], "golden": "Cold."}
    assert read(tmp_path, row, columns={"demonstration": "golden"}).demonstration == "Cold."
    with pytest.raises(DataError, match="has no column golden"):
        read(tmp_path, {"messages": [ASK, REPLY]}, columns={"demonstration": "golden"})


def test_the_teachers_conversation_is_taken_word_for_word_and_spares_a_demonstration(tmp_path: Path) -> None:
    row = {"prompt": "How warm?", "teacher_messages": [ASK, REPLY, {"role": "user", "content": "In degrees."}]}
    example = read(tmp_path, row, system="Be brief.", required=("prompt",))
    assert [turn.role for turn in example.prompt] == ["system", "user"]
    assert [turn.role for turn in example.teacher_messages] == ["user", "assistant", "user"]


def test_columns_under_their_own_names_name_nothing(tmp_path: Path) -> None:
    """As conf/data/jsonl.yaml has them."""
    own = {"prompt": "prompt", "demonstration": "demonstration"}
    assert read(tmp_path, {"messages": [ASK, CALLS]}, columns=own).demonstration_turn == CALLED
    row = {"prompt": "How warm?", "teacher_messages": [ASK]}
    assert read(tmp_path, row, columns=own, required=("prompt",)).teacher_messages == (ASKED,)


def test_columns_of_conversations_and_tools_may_have_other_names(tmp_path: Path) -> None:
    row = {"dialog": [ASK, CALLS], "functions": [TOOL], "oracle": [ASK]}
    names = {"messages": "dialog", "tools": "functions", "teacher_messages": "oracle"}
    example = read(tmp_path, row, columns=names)
    assert (example.demonstration_turn, bool(example.tools), example.teacher_messages) == (CALLED, True, (ASKED,))
    with pytest.raises(DataError, match=r"line 1: the content of dialog\[0\] is null"):
        read(tmp_path, {"dialog": [{"role": "user"}]}, columns={"messages": "dialog"})
