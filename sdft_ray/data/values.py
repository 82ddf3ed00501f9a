"""JSON values of rows: how they are parsed, checked and written, and how messages name and quote them."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from sdft_ray.errors import DataError

Refuse = Callable[[str, str], DataError]  # problem and remedy -> the refusal of a row

QUOTED_LENGTH = 60  # characters of a value that a message shows

_TYPES: dict[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def quoted(value: Any) -> str:
    """The beginning of a value as a message shows it, in one line."""
    text = value if isinstance(value, str) else repr(value)
    line = " ".join(text.encode(errors="backslashreplace").decode().split())
    return repr(line if len(line) <= QUOTED_LENGTH else f"{line[:QUOTED_LENGTH]}...")


def type_name(value: Any) -> str:
    """What a value is in JSON's words, with an article."""
    return "null" if value is None else _TYPES.get(type(value), f"a {type(value).__name__}")


def is_absent(value: Any) -> bool:
    """True when a value says no more than a missing key; tables fill the keys that a row lacks with such values."""
    return value is None or value == "" or value == [] or value == {}


def null_key(value: Any, path: str = "") -> str:
    """The path of the first key with null in a nested value, such as `where.zip` or `[0].y`; "" where there is none.

    Tables fill in the keys of other rows' objects, at every depth; they add nothing to lists, whose nulls are left.
    """
    if isinstance(value, Mapping):
        below = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
        found = next((own for own, item in below if item is None), "")
    else:
        below = [(f"{path}[{index}]", item) for index, item in enumerate(value if isinstance(value, list) else [])]
        found = ""
    return found or next(filter(None, (null_key(item, own) for own, item in below)), "")


def without_nulls(value: Any) -> Any:
    """A nested value without the keys that are null, which say no more than missing ones."""
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {key: without_nulls(item) for key, item in value.items() if item is not None}


def parse_json(text: str) -> Any:
    """A JSON value, strictly: no key twice in an object, no NaN or Infinity.

    Raises:
        ValueError: the text is no such value; `json.JSONDecodeError` where it is no JSON at all.
        RecursionError: its brackets are nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def checked_text(text: str, place: str, refuse: Refuse) -> str:
    """The text itself; refuses what no encoding can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"{place} holds a lone surrogate at character {error.start + 1}: {quoted(text)}"
        raise refuse(problem, "write the whole character, or remove it") from error
    return text


def parsed_json(text: str, place: str, refuse: Refuse) -> Any:
    """The JSON value that a text holds; refuses a text that holds none."""
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise refuse(f"{place} is no JSON text ({error}): {quoted(text)}", "mend it") from error


def json_text(value: Any, place: str, refuse: Refuse) -> str:
    """JSON text of a value, in which every character stands for itself; refuses what JSON cannot write."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:  # a date of a table, NaN, endless nesting
        raise refuse(f"{place} cannot be written as JSON ({error}): {quoted(value)}", "make it plain JSON") from error
    return checked_text(text, place, refuse)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object none of whose keys is given twice: JSON would keep the last without a word."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {quoted(key)} is given twice")
        values[key] = value
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
