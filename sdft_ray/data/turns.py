"""Conversations of a row as messages, or a refusal that names the turn, its key and the remedy.

Turns have the form of chat services: role and content, calls of tools in turns of the assistant, and turns of the tools
that answer them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sdft_ray.conversation import Message, ToolCall
from sdft_ray.data.sharegpt import as_service_turn
from sdft_ray.data.values import Refuse, checked_text, is_absent, json_text, null_key, parsed_json, quoted, type_name

SYSTEM, DEVELOPER, USER, ASSISTANT, TOOL = ROLES = ("system", "developer", "user", "assistant", "tool")

_KEYS = {ASSISTANT: ("tool_calls",), TOOL: ("tool_call_id", "name")}  # besides role and content
_REMEDIES = {
    "function_call": "write it as tool_calls",
    "reasoning": "write it into the content, in the marks of the model, such as <think> and </think>",
    "reasoning_content": "write it into the content, in the marks of the model, such as <think> and </think>",
    "thinking": "write it into the content, in the marks of the model, such as <think> and </think>",
    "tool_calls": "give it to a turn of the assistant",
    "tool_call_id": "give it to a turn of the role tool",
    "weight": "remove it: of a conversation the last turn is learned",
}


def read_turns(values: Sequence[Any], place: str, refuse: Refuse) -> tuple[Message, ...]:
    """The turns of a conversation, answers of tools in the order of the calls.

    Args:
        values: as the row has them.
        place: their column.
        refuse: makes the refusal of the row.

    Raises:
        DataError: a turn is malformed, or stands where none of its role can; or a call has no answer.
    """
    turns: list[Message] = []
    open_calls: dict[int, ToolCall] = {}  # that have no answer yet, by their place in the turn that calls
    answered: list[int] = []  # the places of the others
    caller = ""
    for index, value in enumerate(values):
        if _says_nothing(value, f"{place}[{index}]", refuse):
            continue
        turn = read_turn(value, f"{place}[{index}]", refuse)
        before = {earlier.role for earlier in turns}
        if turn.role == SYSTEM and turns:
            raise refuse(f"{place}[{index}] is a system message behind others", "put it first")
        if turn.role == DEVELOPER and before - {SYSTEM, DEVELOPER}:
            raise refuse(
                f"{place}[{index}] is a developer message behind the conversation's first turn", "put it first"
            )
        if turn.role == TOOL:
            answered.append(_answered(turn, open_calls, f"{place}[{index}]", refuse))
            # In the order of the calls: a chat template may show neither ids nor names.
            num_later = sum(call > answered[-1] for call in answered)
            turns.insert(len(turns) - num_later, turn)
            continue
        _check_answered(open_calls, caller, refuse)
        open_calls, answered, caller = dict(enumerate(turn.tool_calls)), [], f"{place}[{index}]"
        turns.append(turn)
    if turns and turns[-1].role == TOOL:  # calls that end a conversation are learned
        _check_answered(open_calls, caller, refuse)
    return tuple(turns)


def _says_nothing(value: Any, place: str, refuse: Refuse) -> bool:
    """True when it is an instruction without text, which some data sets put before every conversation."""
    turn = as_service_turn(value, place, refuse) if isinstance(value, Mapping) else {}
    text = turn.get("content")
    is_empty = is_absent(text) or (isinstance(text, str) and not text.strip())
    return is_empty and turn.get("role") in (SYSTEM, DEVELOPER)


def read_turn(value: Any, place: str, refuse: Refuse) -> Message:
    """One turn, whatever stands before it.

    Raises:
        DataError: it is malformed.
    """
    if not isinstance(value, Mapping):
        raise refuse(f"{place} is {type_name(value)}: {quoted(value)}", "write every turn as {role, content}")
    value = as_service_turn(value, place, refuse)
    role = value.get("role")
    if role not in ROLES:
        raise refuse(f"{place} has the unknown role {role!r}", f"use {', '.join(ROLES)}")
    known = ("role", "content", *_KEYS.get(role, ()), *(["weight"] if value.get("weight") == 1 else []))
    if more := [key for key, other in value.items() if key not in known and not is_absent(other)]:
        remedy = _REMEDIES.get(more[0], "write it into the content, or remove it")
        raise refuse(f"{place} has the key {more[0]}, which no prompt would show in a turn of the {role}", remedy)
    calls = _calls(value.get("tool_calls"), place, refuse) if role == ASSISTANT else ()
    content = _content(value.get("content"), place, refuse, may_be_absent=bool(calls))
    if not content.strip() and not calls and role != TOOL:  # a tool may have nothing to say
        raise refuse(f"the content of {place} is empty", "write the turn, or remove the row")
    return Message(
        role=role,
        content=content,
        tool_calls=calls,
        tool_call_id=_text(value, "tool_call_id", place, refuse) if role == TOOL else "",
        name=_text(value, "name", place, refuse) if role == TOOL else "",
    )


def _answered(turn: Message, open_calls: dict[int, ToolCall], place: str, refuse: Refuse) -> int:
    """Takes the call that a tool's turn answers from the open ones, and says its place among the calls.

    The call is that of the same id, else the first of the same name; where the turn has neither, the first.
    """
    if not open_calls:
        remedy = "put it behind the assistant's turn whose tool_calls it answers, one turn a call"
        raise refuse(f"{place} is a turn of a tool that no call asks for", remedy)
    ids = {index: call.call_id for index, call in open_calls.items() if call.call_id}
    names = {index: call.name for index, call in open_calls.items()}
    key, own, asked = "tool_call_id", turn.tool_call_id, ids
    if not (own and ids):
        key, own, asked = "name", turn.name, names
    index = next((index for index, of_call in asked.items() if own in ("", of_call)), None)
    if index is None:
        shown = ", ".join(asked.values())
        raise refuse(f"{place} has the {key} {own!r}; the open calls are {shown}", "use one of these")
    del open_calls[index]
    return index


def _check_answered(open_calls: Mapping[int, ToolCall], caller: str, refuse: Refuse) -> None:
    for index, call in open_calls.items():
        problem = f"{caller}.tool_calls[{index}], which calls {call.name!r}, has no answer"
        raise refuse(problem, "put a turn of the role tool with its answer behind the call, or remove the call")


def _content(value: Any, place: str, refuse: Refuse, *, may_be_absent: bool) -> str:
    """Text, or the texts of a list of parts, joined by newlines."""
    if value is None and may_be_absent:
        return ""
    if isinstance(value, list):
        value = "\n".join(_part(part, f"{place}.content[{index}]", refuse) for index, part in enumerate(value))
    if not isinstance(value, str):
        problem = f"the content of {place} is {type_name(value)}: {quoted(value)}"
        raise refuse(problem, "make it a string, or a list of {type: text, text}")
    return checked_text(value, f"the content of {place}", refuse)


def _part(part: Any, place: str, refuse: Refuse) -> str:
    if not isinstance(part, Mapping):
        raise refuse(f"{place} is {type_name(part)}: {quoted(part)}", "write every part as {type: text, text}")
    kind, text = part.get("type"), part.get("text")
    if kind != "text":
        problem = f"{place} is of the type {kind!r}, and only text is read"
        raise refuse(problem, "remove the row, or write what it shows as text")
    if not isinstance(text, str):
        raise refuse(f"the text of {place} is {type_name(text)}: {quoted(text)}", "make it a string")
    return text


def _calls(values: Any, place: str, refuse: Refuse) -> tuple[ToolCall, ...]:
    if is_absent(values):
        return ()
    if not isinstance(values, list):
        problem = f"the tool_calls of {place} are {type_name(values)}: {quoted(values)}"
        raise refuse(problem, "make them a list of {id, type, function: {name, arguments}}")
    return tuple(_call(value, f"{place}.tool_calls[{index}]", refuse) for index, value in enumerate(values))


def _call(value: Any, place: str, refuse: Refuse) -> ToolCall:
    """A call as services write it, or its function alone."""
    if not isinstance(value, Mapping):
        raise refuse(f"{place} is {type_name(value)}: {quoted(value)}", "write it as {id, type, function}")
    if value.get("type") not in (None, "function"):
        raise refuse(f"{place} is of the type {value['type']!r}", "only functions are called: use the type function")
    function = value.get("function", value)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise refuse(
            f"{place} names no function: {quoted(value)}", "write it as {id, type, function: {name, arguments}}"
        )
    return ToolCall(
        name=checked_text(name, f"the name in {place}", refuse),
        arguments=_arguments(function.get("arguments"), f"the arguments of {place}", refuse),
        call_id=_text(value, "id", place, refuse),
    )


def _arguments(value: Any, place: str, refuse: Refuse) -> str:
    """The arguments, an object or its JSON text, as JSON text; of a call without any an empty object.

    Refuses null for a key, at every depth: a table has it for whatever the call does not name, and the model would
    learn to name it.
    """
    is_text = isinstance(value, str)
    if is_text and value.strip():
        value = parsed_json(value, place, refuse)
    if is_absent(value):
        value = {}
    if not isinstance(value, Mapping):
        raise refuse(f"{place} are {type_name(value)}: {quoted(value)}", "make them an object, or its JSON text")
    if not is_text and (empty := null_key(value)):
        problem = f"{place} have null for {empty!r}, as tables fill in what a call does not name"
        raise refuse(problem, "leave it out, or write the arguments as JSON text, in which null stays")
    return json_text(value, place, refuse)


def _text(value: Mapping[str, Any], key: str, place: str, refuse: Refuse) -> str:
    text = value.get(key)
    if text is not None and not isinstance(text, str):
        raise refuse(f"the {key} of {place} is {type_name(text)}: {quoted(text)}", "make it a string")
    return checked_text(text or "", f"the {key} of {place}", refuse)
