"""TOOL_CALL: the calls of a completion are the answer's, each as often, in any order.

A call is written in one of three forms. "Action: NAME" with "Action Input: {JSON object}" on a line below it; where a
completion has none of these, "[TOOL_CALLS]NAME[ARGS]{JSON object}"; where it has none of these either, every JSON
object {"name": NAME, "arguments": OBJECT}, wherever it stands: between <tool_call> tags, in a list, or alone. Its id,
index and type may stand before the name. "parameters" may stand for "arguments", and a string of JSON for the object.
The input is read by a JSON parser from where it begins, so nested objects and text behind it are no trouble. Values are
compared as JSON: the order of keys is free, 1 and 1.0 are the same number, but "1" is a string and true is no number. A
call too many is wrong, as is a completion with an input that is not a JSON object (also one that was cut, or an echo of
the prompt's format). Calls as Python writes them are not read.

The answer is one JSON object or a list of them: {Action, Action_Input}, {name, arguments}, or {function: {name,
arguments}} as in `tool_calls`. `acceptable` says, in the form of the Berkeley function-calling leaderboard, what
else an argument may be: {argument: [values]}, for one call; a list of such objects (or null), one a call, for several.
An argument with "" among its values, or with no value, may be absent. An object among the values again has a list of
values under each of its keys. The answer itself is always accepted.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sdft_ray.evaluation.scorers.score import Gold, Score

_ACTION = re.compile(r"^[ \t]*Action:(?P<name>[^\n]*)\n\s*Action Input:\s*", re.MULTILINE)
_TOOL_CALLS = re.compile(r"\[TOOL_CALLS\]\s*(?P<name>[^\s\[\]{}]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?\[ARGS\]\s*")
_OBJECT = re.compile(r'\{\s*"(?P<key>name|arguments|parameters|id|index|type)"\s*:')  # as an object of a call begins
_BEFORE = ("id", "index", "type")  # keys that stand before the name, and in other objects as well


class Call(NamedTuple):
    """One call."""

    name: str
    arguments: dict[str, Any]

    def canonical(self) -> str:
        """The call as one string in which the order of keys is fixed."""
        return _canonical([self.name, self.arguments])


def score_tool_call(completion: str, gold: Gold) -> Score:
    """Whether the completion's calls are the answer's."""
    wanted, acceptable = gold_calls(gold.answer), acceptable_arguments(gold)
    given = read_calls(completion)
    if given is None:
        return Score(False, "")
    extracted = json.dumps([call._asdict() for call in given])
    if len(given) != len(wanted):
        return Score(False, extracted)
    fits = [
        [index for index, call in enumerate(wanted) if _fits(made, call, acceptable[index])]
        for made in given
    ]  # fmt: skip
    return Score(_have_partners(fits), extracted)


def read_calls(completion: str) -> list[Call] | None:
    """The calls of a completion in their order; None where it has none, or an input that is not a JSON object."""
    try:
        calls = [*_named(_ACTION, completion)] or [*_named(_TOOL_CALLS, completion)] or [*_objects(completion)]
        for call in calls:
            call.canonical()
    except (ValueError, RecursionError):  # no JSON, a number of more digits than Python reads, or nested too deep
        return None
    return calls or None


def gold_calls(answer: str) -> list[Call]:
    """The calls of an answer.

    Raises:
        ValueError: the answer is no such thing.
    """
    parsed = _DECODER.decode(answer)
    calls = [_gold_call(call) for call in (parsed if isinstance(parsed, list) else [parsed])]
    if not calls:
        raise ValueError("it has no call")
    return calls


def _gold_call(call: Any) -> Call:
    value = call
    if isinstance(value, dict):
        value = value.get("function", value)
    if not isinstance(value, dict):
        raise ValueError(f"{call!r} is not an object with Action and Action_Input, or with name and arguments")
    if {"Action", "Action_Input"} <= value.keys():
        read = _call(value["Action"], value["Action_Input"])
    else:
        read = _call_of(value)
    if read is None:
        raise ValueError(f"{call!r} does not have a name as Action or name, and an object as Action_Input or arguments")
    return read


def _named(form: re.Pattern[str], completion: str) -> Iterator[Call]:
    """The calls of a form in which an input follows the name.

    Raises:
        ValueError: an input is no JSON object.
    """
    for found in form.finditer(completion):
        arguments, _ = _DECODER.raw_decode(completion, found.end())
        if not isinstance(arguments, dict):
            raise ValueError("an input is no object")
        yield Call(found["name"].strip(), arguments)


def _objects(completion: str) -> Iterator[Call]:
    """The calls that are JSON objects. An object that lacks a part of a call is none.

    Raises:
        ValueError: an object is no JSON, such as one that was cut.
    """
    position = 0
    while found := _OBJECT.search(completion, position):
        value, position = _DECODER.raw_decode(completion, found.start())
        if (call := _call_of(value)) is not None:
            yield call
        elif found["key"] in _BEFORE:  # a call may stand within
            position = found.end()


def _call_of(value: dict[str, Any]) -> Call | None:
    return _call(value.get("name"), value.get("arguments", value.get("parameters")))


def _call(name: Any, arguments: Any) -> Call | None:
    """The call; None where the name is no string, or the arguments neither are an object nor hold one as JSON."""
    if isinstance(arguments, str):
        arguments = _DECODER.decode(arguments)
    return Call(name.strip(), arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def acceptable_arguments(gold: Gold) -> list[dict[str, Any] | None]:
    """What else the arguments of each call may be; None where only the answer's own count.

    Raises:
        ValueError: `acceptable` is no such thing.
    """
    num_calls = len(gold_calls(gold.answer))
    if not gold.acceptable:
        return [None] * num_calls
    parsed = _DECODER.decode(gold.acceptable)
    choices = parsed if isinstance(parsed, list) else [parsed]
    if len(choices) != num_calls:
        raise ValueError(f"acceptable is for {len(choices)} calls, the answer has {num_calls}")
    for choice in choices:
        if choice is not None and not (isinstance(choice, dict) and all(map(_is_list, choice.values()))):
            raise ValueError(f"acceptable has {choice!r}, which is not an object of lists")
    return choices


def _fits(made: Call, wanted: Call, acceptable: dict[str, Any] | None) -> bool:
    if made.canonical() == wanted.canonical():
        return True
    return acceptable is not None and made.name == wanted.name and _is_accepted(made.arguments, acceptable)


def _is_accepted(value: Any, option: Any) -> bool:
    """Whether a value is one that `option` allows: an object lists what may stand under each of its keys."""
    if isinstance(option, dict):
        if not isinstance(value, dict) or not value.keys() <= option.keys():
            return False
        return all(
            any(_is_accepted(value[key], choice) for choice in choices) if key in value else _may_be_absent(choices)
            for key, choices in ((key, under if _is_list(under) else [under]) for key, under in option.items())
        )
    if isinstance(option, list):
        return (
            isinstance(value, list)
            and len(value) == len(option)
            and all(_is_accepted(part, wanted) for part, wanted in zip(value, option, strict=True))
        )
    return _canonical(value) == _canonical(option)


def _may_be_absent(choices: list[Any]) -> bool:
    return not choices or "" in choices


def _have_partners(fits: Sequence[Sequence[int]]) -> bool:
    """Whether every call can be given an answer's call of its own, `fits` naming those that each may have."""
    holder: dict[int, int] = {}

    def place(call: int, tried: set[int]) -> bool:
        for wanted in fits[call]:
            if wanted not in tried:
                tried.add(wanted)
                if wanted not in holder or place(holder[wanted], tried):
                    holder[wanted] = call
                    return True
        return False

    return all(place(call, set()) for call in range(len(fits)))


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _number(digits: str) -> float | int:
    number = float(digits)
    return int(number) if number.is_integer() else number


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_no_number)
