"""Turns of {from, value}, as ShareGPT and the libraries after it write them, in the form of chat services."""

import json
from collections.abc import Mapping
from typing import Any

from sdft_ray.data.values import Refuse, is_absent, parsed_json

CONVERSATIONS = "conversations"  # their usual column
FUNCTION_CALL = "function_call"

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    FUNCTION_CALL: "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


def as_service_turn(turn: Mapping[str, Any], place: str, refuse: Refuse) -> Mapping[str, Any]:
    """The turn with role and content; one that has these stays as it is.

    A turn of `function_call` has the JSON text of a call, {name, arguments}, or of a list of calls.

    Raises:
        DataError: the speaker is unknown, or a call is no JSON.
    """
    if not is_absent(turn.get("role")) or not {"from", "value"} <= turn.keys():
        return turn
    speaker, value = turn["from"], turn["value"]
    if not isinstance(speaker, str) or speaker not in _ROLES:
        remedy = f"use {', '.join(_ROLES)}, or write the turn as {{role, content}}"
        raise refuse(f"{place} is from {speaker!r}, whose role is unknown", remedy)
    others = {key: item for key, item in turn.items() if key not in ("from", "value", "role", "content")}
    if speaker != FUNCTION_CALL:
        return {"role": _ROLES[speaker], "content": value, **others}
    calls = parsed_json(value, place, refuse) if isinstance(value, str) else value
    calls = [
        _as_text(call) if isinstance(value, str) else call for call in (calls if isinstance(calls, list) else [calls])
    ]
    return {"role": "assistant", "tool_calls": calls, **others}


def _as_text(call: Any) -> Any:
    """A call of a JSON text with its arguments as such a text, in which null is no table's."""
    if not isinstance(call, Mapping) or not isinstance(call.get("arguments"), Mapping):
        return call
    return {**call, "arguments": json.dumps(call["arguments"])}
