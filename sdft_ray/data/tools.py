"""The tools of a row: the schemas that its chat template shows, and the calls that have to fit them."""

from collections.abc import Iterable, Mapping
from typing import Any

from sdft_ray.conversation import Message
from sdft_ray.data.values import Refuse, is_absent, json_text, parsed_json, quoted, type_name

_FORM = "write every tool as {type: function, function: {name, description, parameters}}"

_VALUES = ("const", "default", "enum", "example", "examples")  # keys of a schema that hold values, so also null


def read_tools(value: Any, place: str, refuse: Refuse, turns: Iterable[Message]) -> str:
    """The tools of a row as JSON text of a list; "" where it has none.

    Args:
        value: a list of schemas, or its JSON text.
        place: its column.
        refuse: makes the refusal of the row.
        turns: of the row, whose calls have to be of these tools.

    Raises:
        DataError: the list is malformed, names a tool twice, or lacks one that is called.
    """
    if isinstance(value, str) and value.strip():
        value = parsed_json(value, place, refuse)
    value = _without_nulls(value)
    if is_absent(value) or isinstance(value, str):
        return ""
    if not isinstance(value, list):
        raise refuse(f"{place} is {type_name(value)}: {quoted(value)}", "make it a list of JSON schemas, or its text")
    names = [_name(tool, f"{place}[{index}]", refuse) for index, tool in enumerate(value)]
    if twice := next((name for index, name in enumerate(names) if name in names[:index]), ""):
        raise refuse(f"{place} has two tools of the name {twice!r}", "give every tool a name of its own")
    called = next((call.name for turn in turns for call in turn.tool_calls if call.name not in names), "")
    if called:
        raise refuse(f"{called!r} is called, but {place} has only {', '.join(names)}", f"add its schema to {place}")
    return json_text(value, place, refuse)


def _without_nulls(value: Any) -> Any:
    """A schema without the keys that are null: tables fill in those of other rows' schemas, and no schema has such."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: item if key in _VALUES else _without_nulls(item)
        for key, item in value.items()
        if item is not None or key in _VALUES
    }


def _name(tool: Any, place: str, refuse: Refuse) -> str:
    """The name of a tool, whose schema stands under `function` or by itself."""
    if not isinstance(tool, Mapping):
        raise refuse(f"{place} is {type_name(tool)}: {quoted(tool)}", _FORM)
    function = tool.get("function", tool)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise refuse(f"{place} has no name: {quoted(tool)}", _FORM)
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        problem = f"the parameters of {place} are {type_name(parameters)}: {quoted(parameters)}"
        raise refuse(problem, "make them a JSON schema of the type object")
    return name
