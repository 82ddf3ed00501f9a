"""When a completion counts as right."""

import json
import re
import unicodedata
from collections import Counter
from typing import Any

from sdft_ray.config import Match

_CALL = re.compile(r"^[ \t]*Action:[ \t]*(?P<name>\S[^\n]*?)[ \t]*\n[ \t]*Action Input:[ \t]*", re.MULTILINE)


def is_right(completion: str, answer: str, match: Match) -> bool:
    """Whether `completion` gives `answer`; an answer that says nothing is never right."""
    if match is Match.TOOL_CALL:
        return tool_calls(completion) == gold_calls(answer)
    given, wanted = normalise(completion), normalise(answer)
    if not wanted:
        return False
    if match is Match.EXACT:
        return given == wanted
    return f" {wanted} " in f" {given} "


def normalise(text: str) -> str:
    """Lower case, compatibility characters folded, punctuation out, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def tool_calls(completion: str) -> Counter[str] | None:
    """The calls of a completion as a multiset; None where it has none, or an input that is not a JSON object.

    The input is read by a JSON parser from where it begins, so nested objects and text behind it are no trouble.
    """
    calls: Counter[str] = Counter()
    for found in _CALL.finditer(completion):
        try:
            arguments, _ = json.JSONDecoder().raw_decode(completion, found.end())
        except json.JSONDecodeError:
            return None
        if not isinstance(arguments, dict):
            return None
        calls[_canonical(found["name"], arguments)] += 1
    return calls or None


def gold_calls(answer: str) -> Counter[str]:
    """The calls of an answer: one JSON object {Action, Action_Input} or a list of them.

    `Action_Input` may be an object or, as in ToolAlpaca, a string that holds one.

    Raises:
        ValueError: the answer is no such thing.
    """
    calls: Counter[str] = Counter()
    parsed = json.loads(answer)
    for call in parsed if isinstance(parsed, list) else [parsed]:
        if not isinstance(call, dict) or not {"Action", "Action_Input"} <= call.keys():
            raise ValueError(f"{call!r} is not an object with Action and Action_Input")
        arguments = call["Action_Input"]
        calls[_canonical(call["Action"], json.loads(arguments) if isinstance(arguments, str) else arguments)] += 1
    return calls


def _canonical(name: str, arguments: Any) -> str:
    """A call as one string in which the order of keys is fixed."""
    return json.dumps([name, arguments], sort_keys=True)
