"""Every malformed row ends in one sentence: file, line, column, remedy; before anything is started."""

import json
from pathlib import Path

import pytest

from sdft_ray.config import DataConfig, MethodConfig, OnBadRow, TeacherConfig
from sdft_ray.data.dataset import read_dataset
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.errors import DataError
from tests.data.families import QWEN_3, tokenizer_with

ROW = {"prompt": "What is new?", "demonstration": "Nothing."}
ASK = {"role": "user", "content": "How warm?"}
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWER = {"role": "assistant", "content": "Cold."}
ANSWERS = {"role": "tool", "tool_call_id": "a", "content": "3"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def called(**function: object) -> dict[str, object]:
    return CALLS | {"tool_calls": [CALL | {"function": {"name": "weather"} | function}]}


def asked(*turns: object) -> dict[str, object]:
    return ROW | {"prompt": [ASK, *turns]}


def parts(*content: object) -> dict[str, object]:
    return ROW | {"prompt": [{"role": "user", "content": list(content)}]}


# The row as text or as what json.dumps makes of it; what its refusal names besides file and line; the remedy.
MALFORMED: list[tuple[object, list[str], str]] = [
    ('{"prompt": ', ["not JSON", "column 12"], "one JSON object a line"),
    ([1], ["is a list, not an object"], "one JSON object a line"),
    ('["a", ', ["is not JSON", "'[\"a\",'"], "one JSON object a line"),
    ("plain text " * 20, ["is not JSON", "'plain text plain", "...'"], "one JSON object a line"),
    ("7", ["is a number, not an object: '7'"], "one JSON object a line"),
    ("null", ["is null, not an object"], "one JSON object a line"),
    ('{"prompt": "Q?", "demonstration": "A.", "prompt": "B?"}', ["the key 'prompt' is given twice"], "mend or remove"),
    ('{"prompt": "Q?", "demonstration": "A.", "answer": {"f": 1, "f": 2}}', ["the key 'f' is given twice"], "mend"),
    ('{"prompt": "Q?", "demonstration": "A.", "answer": [NaN]}', ["NaN is no JSON"], "mend or remove"),
    ('{"prompt": "Q?", "demonstration": "A.", "answer": ' + "9" * 5000 + "}", ["cannot be used", "digits"], "mend"),
    ('{"prompt": ' + "[" * 100_000, ["cannot be used"], "mend or remove the row"),
    (b"\x00\x01\x02\x7fELF", ["is not JSON"], "one JSON object a line"),
    (b"\xff\xfe{\x00", ["is not UTF-8"], "save the file as UTF-8"),
    # values
    ({"demonstration": "A."}, ["no column prompt", "columns are: demonstration"], "data.columns.prompt"),
    ({"prompt": "Q?"}, ["no column demonstration", "columns are: prompt"], "data.columns.demonstration"),
    (
        '{"prompt": "caf\\ud800", "demonstration": "A."}',
        ["prompt[0] holds a lone surrogate at character 4"],
        "write the",
    ),
    (
        '{"prompt": "Q?", "demonstration": "\\udc80"}',
        ["demonstration holds a lone surrogate", "'\\\\udc80'"],
        "write the",
    ),
    (
        '{"prompt": "Q?", "demonstration": "A.", "text": ["x\\ud800"]}',
        ["text holds a lone surrogate"],
        "write the whole",
    ),
    ('{"prompt": "Q?", "demonstration": "A.", "id": "\\ud800"}', ["id holds a lone surrogate"], "write the whole"),
    (ROW | {"prompt": None}, ["prompt is null"], "fill it"),
    (ROW | {"prompt": " "}, ["content of prompt[0] is empty"], "write the turn"),
    (ROW | {"prompt": 3}, ["prompt is a number: '3'"], "a string or a list of {role, content}"),
    (ROW | {"prompt": []}, ["prompt has no message"], "give at least the user's turn"),
    ({"messages": [{"role": "system", "content": ""}]}, ["messages has no message"], "give at least the user's turn"),
    (ROW | {"demonstration": ""}, ["demonstration is empty"], "write what an expert would answer"),
    (ROW | {"demonstration": []}, ["demonstration is empty"], "write what an expert would answer"),
    (ROW | {"demonstration": [1]}, ["demonstration is a list"], "a list of strings"),
    (ROW | {"demonstration": {"a": 1}}, ["demonstration is an object"], "a list of strings"),
    (ROW | {"text": [1]}, ["text is a list"], "a list of strings"),
    (ROW | {"id": 1.5}, ["id is a number"], "a string or an integer"),
    # turns
    (ROW | {"prompt": ["Q?"]}, ["prompt[0] is a string"], "write every turn as {role, content}"),
    (ROW | {"prompt": [{"role": "robot", "content": "Q?"}]}, ["unknown role 'robot'"], "system, developer, user"),
    (ROW | {"prompt": [{"content": "Q?"}]}, ["prompt[0] has the unknown role None"], "system, developer, user"),
    (ROW | {"prompt": [{"role": ["user"], "content": "Q?"}]}, ["unknown role ['user']"], "system, developer, user"),
    (ROW | {"prompt": [{"role": "user"}]}, ["content of prompt[0] is null"], "make it a string"),
    (ROW | {"prompt": [{"role": "user", "content": 3}]}, ["content of prompt[0] is a number"], "make it a string"),
    (ROW | {"prompt": [ASK | {"name": "Ann"}]}, ["prompt[0] has the key name"], "write it into the content"),
    (ROW | {"prompt": [ASK | {"tool_calls": [CALL]}]}, ["key tool_calls"], "give it to a turn of the assistant"),
    (
        asked({"role": "assistant", "content": "A."}),
        ["ends with a turn of the assistant"],
        "belongs into demonstration",
    ),
    (asked({"role": "assistant", "content": " "}, ASK), ["content of prompt[1] is empty"], "write the turn"),
    (
        asked({"role": "system", "content": "Be brief."}),
        ["prompt[1] is a system message behind others"],
        "put it first",
    ),
    (asked({"role": "developer", "content": "Be brief."}), ["prompt[1] is a developer message"], "put it first"),
    (
        ROW | {"prompt": [{"role": "system", "content": "Be brief."}]},
        ["prompt has no turn of the user"],
        "give at least",
    ),
    (
        asked({"role": "assistant", "content": "A.", "reasoning_content": "B."}, ASK),
        ["key reasoning_content"],
        "<think>",
    ),
    (
        asked({"role": "assistant", "content": "", "function_call": {"name": "f"}}),
        ["key function_call"],
        "as tool_calls",
    ),
    (
        ROW | {"prompt": "Q?", "demonstration": ASK},
        ["demonstration is a turn of the user"],
        "the turn of the assistant",
    ),
    # parts of a content
    (parts("Q?"), ["prompt[0].content[0] is a string"], "write every part as {type: text, text}"),
    (parts({"type": "text", "text": "Q?"}, {"type": "image_url", "image_url": {"url": "x"}}), ["image_url"], "as text"),
    (
        parts({"type": "input_audio", "input_audio": {"data": "x"}}),
        ["content[0] is of the type 'input_audio'"],
        "as text",
    ),
    (parts({"type": "text"}), ["the text of prompt[0].content[0] is null"], "make it a string"),
    (parts(), ["content of prompt[0] is empty"], "write the turn"),
    # calls and their answers
    (asked(CALLS | {"tool_calls": "f"}, ANSWERS), ["tool_calls of prompt[1] are a string"], "{id, type, function"),
    (asked(CALLS | {"tool_calls": ["f"]}, ANSWERS), ["prompt[1].tool_calls[0] is a string"], "{id, type, function}"),
    (
        asked(CALLS | {"tool_calls": [CALL | {"type": "browser"}]}),
        ["is of the type 'browser'"],
        "use the type function",
    ),
    (
        asked(CALLS | {"tool_calls": [{"id": "a", "function": {}}]}),
        ["tool_calls[0] names no function"],
        "name, arguments",
    ),
    (asked(called(arguments="{city: Oslo}"), ANSWERS), ["arguments of prompt[1].tool_calls[0] is no JSON"], "mend it"),
    (asked(called(arguments='{"a": 1, "a": 2}'), ANSWERS), ["the key 'a' is given twice"], "mend it"),
    (asked(called(arguments=[1]), ANSWERS), ["arguments of prompt[1].tool_calls[0] are a list"], "make them an object"),
    (
        asked(called(arguments="3"), ANSWERS),
        ["tool_calls[0] are a number: '3'"],
        "make them an object, or its JSON text",
    ),
    (asked(called(arguments='"\\ud800"'), ANSWERS), ["tool_calls[0] are a string"], "make them an object"),
    (asked(called(arguments='{"a": "\\ud800"}'), ANSWERS), ["tool_calls[0] holds a lone surrogate"], "write the whole"),
    (
        asked(CALLS | {"tool_calls": [CALL | {"id": 7}]}, ANSWERS),
        ["the id of prompt[1].tool_calls[0] is a number"],
        "make",
    ),
    (asked(ANSWERS), ["prompt[1] is a turn of a tool that no call asks for"], "put it behind the assistant's turn"),
    (asked(CALLS, ANSWERS, ANSWERS), ["prompt[3] is a turn of a tool that no call asks for"], "one turn a call"),
    (asked(CALLS, ANSWERS | {"tool_call_id": "b"}), ["tool_call_id 'b'", "the open calls are a"], "use one of these"),
    (
        asked(CALLS | {"tool_calls": [CALL | {"id": ""}]}, ANSWERS | {"name": "wind"}),
        ["prompt[2] has the name 'wind'; the open calls are weather"],
        "use one of these",
    ),
    (
        asked(CALLS | {"tool_calls": [CALL, CALL | {"id": "b"}]}, ANSWERS),
        ["prompt[1].tool_calls[1], which calls 'weather', has no answer"],
        "put a turn of the role tool",
    ),
    (
        {"messages": [ASK, CALLS | {"tool_calls": [CALL, CALL | {"id": "b"}]}, ANSWERS, ANSWER]},
        ["messages[1].tool_calls[1]", "has no answer"],
        "or remove the call",
    ),
    (asked(CALLS, ASK), ["prompt[1].tool_calls[0]", "has no answer"], "put a turn of the role tool"),
    (asked(CALLS, ANSWERS | {"content": None}), ["content of prompt[2] is null"], "make it a string"),
    (asked(CALLS, ANSWERS | {"content": {"c": 3}}), ["content of prompt[2] is an object"], "make it a string"),
    # tools
    (ROW | {"tools": "[{"}, ["tools is no JSON text"], "mend it"),
    (ROW | {"tools": {"name": "f"}}, ["tools is an object"], "a list of JSON schemas"),
    (ROW | {"tools": ["weather"]}, ["tools[0] is a string"], "write every tool as"),
    (ROW | {"tools": [{"type": "function", "function": {}}]}, ["tools[0] has no name"], "write every tool as"),
    (ROW | {"tools": [TOOL, TOOL]}, ["two tools of the name 'weather'"], "a name of its own"),
    (ROW | {"tools": [{"name": "f", "parameters": "x"}]}, ["parameters of tools[0] are a string"], "a JSON schema"),
    (
        asked(CALLS, ANSWERS) | {"tools": [{"name": "time"}]},
        ["'weather' is called, but tools has only time"],
        "add its",
    ),
    # conversations
    ({"messages": "Q?"}, ["messages is no JSON text"], "mend it"),
    ({"messages": {"role": "user"}}, ["messages is an object"], "a list of {role, content}"),
    ({"messages": [ASK]}, ["has no column demonstration"], "data.columns.demonstration"),
    (
        {"messages": [{"role": "assistant", "content": "A."}]},
        ["messages has no turn of the user"],
        "give at least that",
    ),
    (
        {"messages": [ASK, {"role": "assistant", "content": None}]},
        ["content of messages[1] is null"],
        "make it a string",
    ),
    ({"messages": [ASK]}, ["has no column demonstration"], "end messages with a turn of the assistant"),
    ({"dialog": [ASK]}, ["no column prompt", "columns are: dialog"], "data.columns.messages"),
    ({"conversations": [ASK]}, ["has no column demonstration"], "end conversations with a turn of the assistant"),
    (
        {"conversations": [{"from": "alice", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        ["conversations[0] is from 'alice', whose role is unknown"],
        "use system, human",
    ),
    (
        {"messages": [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": "f()"}]},
        ["messages[1] is no JSON text", "'f()'"],
        "mend it",
    ),
    (
        {"messages": [{"from": "human", "value": "Hi"}, {"from": "observation", "value": "3"}]},
        ["messages[1] is a turn of a tool that no call asks for"],
        "put it behind",
    ),
    (
        {"messages": [ASK, {"role": "assistant", "content": "A.", "weight": 0}, ASK]},
        ["messages[1] has the key weight"],
        "remove it",
    ),
    (
        {"messages": [ASK, ANSWER], "functions": [TOOL["function"]]},
        ["has functions, and no tools"],
        "+data.columns.tools=functions",
    ),
    (
        {"messages": [ASK, called(arguments={"city": "Oslo", "wind": None})], "tools": [TOOL]},
        ["tool_calls[0] have null for 'wind'"],
        "write the arguments as JSON text",
    ),
    (
        asked(called(arguments={"where": {"city": "Oslo", "zip": None}}), ANSWERS),
        ["tool_calls[0] have null for 'where.zip'"],
        "write the arguments as JSON text",
    ),
    (
        asked(called(arguments={"items": [{"x": 1, "y": 2}, {"x": 1, "y": None}]}), ANSWERS),
        ["tool_calls[0] have null for 'items[1].y'"],
        "write the arguments as JSON text",
    ),
    (ROW | {"input": "Good morning"}, ["has input, which no prompt would show"], "+data.columns.input=''"),
    (ROW | {"image": "coco/1.jpg"}, ["has image, and images are not read"], "write what it shows as text"),
    (ROW | {"images": [{"path": "a.png"}]}, ["has images, and images are not read"], "remove the row"),
    (ROW | {"audio": {"path": "a.wav"}}, ["has audio, and sound is not read"], "remove the row"),
    (ROW | {"system": 3}, ["system is a number"], "make it a string"),
    (
        ROW | {"system": "Be a pirate.", "prompt": [{"role": "system", "content": "Be brief."}, ASK]},
        ["system is a system message, and prompt has another: 'Be a pirate.'"],
        "+data.columns.system=''",
    ),
    (
        {" prompt": "Q?"},
        ["no column prompt", "columns are: ' prompt'"],
        "data.columns.prompt",
    ),
    (ROW | {"teacher_messages": "Q?"}, ["teacher_messages is no JSON text"], "mend it"),
    (ROW | {"teacher_messages": [ASK | {"role": "x"}]}, ["teacher_messages[0] has the unknown role"], "use system"),
    (
        ROW | {"teacher_messages": [ASK, {"role": "assistant", "content": "A."}]},
        ["teacher_messages ends with a turn of the assistant"],
        "end it with the user's turn",
    ),
    # what the chat template does not show
    (
        asked() | {"prompt": [{"role": "developer", "content": "B."}, ASK]},
        ["a turn of the developer"],
        "remove such parts",
    ),
]


@pytest.mark.parametrize(("row", "named", "remedy"), MALFORMED)
def test_a_malformed_row_is_refused_by_file_line_column_and_remedy_or_left_out(
    tmp_path: Path, row: object, named: list[str], remedy: str
) -> None:
    source = tmp_path / "rows.jsonl"
    text = row if isinstance(row, bytes | str) else json.dumps(row)
    good = json.dumps(ROW).encode()
    source.write_bytes(b"\n".join([good, text if isinstance(text, bytes) else text.encode(), good, b""]))
    builder, data = PromptBuilder(tokenizer_with(QWEN_3), TeacherConfig()), DataConfig(source=str(source))
    with pytest.raises(DataError) as refused:
        read_dataset(data, MethodConfig(), builder)
    said = str(refused.value)
    assert said.startswith(f"{source}, line 2: ")
    for words in named:
        assert words in said
    assert remedy in said[said.index("; ") :]
    assert len(said) < 900 and "\n" not in said
    data.on_bad_row = OnBadRow.SKIP
    assert [example.example_id for example in read_dataset(data, MethodConfig(), builder).rows] == ["line-1", "line-3"]
