"""One row of a data set as an `Example`, or a refusal that names its line, its column and the remedy.

What comes later never meets a malformed row.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sdft_ray.errors import DataError
from sdft_ray.records import Example, Message

KEYS = ("id", "prompt", "demonstration", "demonstrations", "text", "context", "answer", "acceptable")
WRITE = {"demonstration": "write what an expert would answer", "text": "write the text"}
MESSAGES = "messages"  # whole conversations, as fine-tuning services take them
ROLES = ("system", "user", "assistant")
_TYPES: dict[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}
_QUOTED_LENGTH = 60  # characters of a value that a message shows


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRules:
    """What is asked of every row of a source."""

    columns: Mapping[str, str]  # our key -> the data's column
    system: str  # system message to put before every prompt; "" adds none
    required: Collection[str]  # keys that every row has to fill
    shared_columns: bool = False  # the columns are those of other data: optional ones may be absent here


def quoted(value: Any) -> str:
    """The beginning of a value as a message shows it, in one line."""
    text = value if isinstance(value, str) else repr(value)
    line = " ".join(text.encode(errors="backslashreplace").decode().split())
    return repr(line if len(line) <= _QUOTED_LENGTH else f"{line[:_QUOTED_LENGTH]}...")


class Row:
    """One row with its place, so that every refusal can name it."""

    def __init__(self, source: str, line: int, row: Any, rules: RowRules, name: str):
        """`name` is the example's where the row has no id; raises `DataError` where the row is no object."""
        self.name = name
        self.source, self.line, self.rules, self.columns = source, line, rules, rules.columns
        if not isinstance(row, Mapping):
            raise self.error(f"is {_type(row)}, not an object: {quoted(row)}", "write one JSON object a line")
        self.row = self._with_prompt(row)

    def _with_prompt(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row; one of whole conversations, and without a prompt, with prompt and demonstration made of these.

        Raises:
            DataError: the last turn is neither the user's nor a text of the assistant's.
        """
        messages = row.get(MESSAGES)
        prompt, demonstration = (self.columns.get(key, key) for key in ("prompt", "demonstration"))
        self.turns = prompt
        if prompt in row or prompt not in ("prompt", MESSAGES) or not isinstance(messages, list) or not messages:
            return row
        self.turns = MESSAGES
        last = self.message(len(messages) - 1, messages[-1])
        if last.role != "assistant":
            return {**row, prompt: messages}
        return {demonstration: last.content, **row, prompt: messages[:-1]}

    def error(self, problem: str, remedy: str) -> DataError:
        """A refusal of this row."""
        return DataError(self.source, self.line, problem, remedy)

    def example(self) -> Example:
        """The row as an example.

        Raises:
            DataError: a value is missing, of the wrong type, empty, or no text.
        """
        required = self.rules.required
        prompt = self.prompt(self.rules.system, "prompt" in required)
        demonstration, *further = self.demonstrations("demonstration" in required)
        return Example(
            example_id=self.identifier(),
            prompt=prompt,
            demonstration=demonstration,
            text=self.lines("text", "text" in required),
            answer=self.string_or_json("answer"),
            acceptable=self.string_or_json("acceptable"),
            further_demonstrations=tuple(further),
            context=self.fields("context", "context" in required),
        )

    def value(self, key: str, required: bool) -> Any:
        """The value under our key; None where an optional one is absent."""
        column = self.columns.get(key, key)
        value = self.row.get(column)
        missed = key in self.columns and column not in self.row and not self.rules.shared_columns
        if value is None and (required or missed):
            problem = f"{column} is null" if column in self.row else f"has no column {column}"
            names = ", ".join(map(str, self.row)) or "none"
            raise self.error(
                problem, f"fill it, or name another with data.columns.{key}; the row's columns are: {names}"
            )
        return value

    def wrong_type(self, key: str, value: Any, wanted: str) -> DataError:
        """A refusal of the type of a value."""
        column = self.columns.get(key, key)
        problem = f"{column} is {_type(value)}: {quoted(value)}"
        return self.error(problem, f"make it {wanted}, or name another with data.columns.{key}")

    def checked(self, place: str, text: str) -> str:
        """The text itself; refuses what no encoding can write."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            problem = f"{place} holds a lone surrogate at character {error.start + 1}: {quoted(text)}"
            raise self.error(problem, "write the whole character, or remove it") from error
        return text

    def string(self, key: str) -> str:
        """An optional string; "" where it is absent."""
        value = self.value(key, required=False)
        if value is not None and not isinstance(value, str):
            raise self.wrong_type(key, value, "a string")
        return self.checked(self.columns.get(key, key), value or "")

    def string_or_json(self, key: str) -> str:
        """An optional string, or the JSON text of an optional list or object; "" where it is absent."""
        value = self.value(key, required=False)
        if not isinstance(value, list | dict):
            return self.string(key)
        return self.checked(self.columns.get(key, key), json.dumps(value, ensure_ascii=False))

    def identifier(self) -> str:
        """The row's id, or its name."""
        value = self.value("id", required=False)
        if value is None or value == "":
            return self.name
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.wrong_type("id", value, "a string or an integer")
        return self.checked(self.columns.get("id", "id"), str(value))

    def lines(self, key: str, required: bool) -> str:
        """A string, or a list of strings joined with newlines; "" where an optional one is absent."""
        value = self.value(key, required)
        parts = value if isinstance(value, list) else [] if value is None else [value]
        for part in parts:
            if not isinstance(part, str):
                raise self.wrong_type(key, value, "a string or a list of strings")
        text = self.checked(self.columns.get(key, key), "\n".join(parts))
        if required and not text.strip():
            raise self.error(f"{self.columns.get(key, key)} is empty", f"{WRITE[key]}, or remove the row")
        return text

    def demonstrations(self, required: bool) -> tuple[str, ...]:
        """The row's `demonstration`, then those of its list `demonstrations` that differ; ("",) where it has none."""
        value = self.value("demonstrations", required=False)
        if value is None:
            return (self.lines("demonstration", required),)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self.wrong_type("demonstrations", value, "a list of strings, each a demonstration")
        column = self.columns.get("demonstrations", "demonstrations")
        blank = next((place for place, each in enumerate(value) if not each.strip()), None)
        if not value or blank is not None:
            problem = f"{column} is empty" if blank is None else f"{column}[{blank}] is empty"
            raise self.error(problem, f"{WRITE['demonstration']}, or leave it out")
        first = self.lines("demonstration", required=False)
        own = [first] if first.strip() else []
        return tuple(dict.fromkeys([*own, *(self.checked(column, each) for each in value)]))

    def fields(self, key: str, required: bool) -> str:
        """The JSON text of an object, without the fields that are null; "" where an optional one is absent."""
        value = self.value(key, required)
        if value is None:
            return ""
        column = self.columns.get(key, key)
        if not isinstance(value, Mapping):
            raise self.wrong_type(key, value, "an object of named fields")
        # A table has every field in every row, null where the row had none.
        given = {name: field for name, field in value.items() if field is not None}
        try:
            return self.checked(column, json.dumps(given, ensure_ascii=False))
        except TypeError as error:  # of a table: a date, bytes
            raise self.error(f"{column} holds what JSON cannot write ({error})", "write it as a string") from error

    def prompt(self, system: str, required: bool) -> tuple[Message, ...]:
        """The prompt as chat turns, the last one the user's; () where an optional one is absent."""
        value = self.value("prompt", required)
        if value is None:
            return ()
        if isinstance(value, str):
            value = [{"role": "user", "content": value}]
        if not isinstance(value, list):
            raise self.wrong_type("prompt", value, "a string or a list of {role, content}")
        messages = [self.message(index, message) for index, message in enumerate(value)]
        if not messages:
            raise self.error("prompt has no message", "give at least the user's turn")
        if messages[-1].role != "user":
            raise self.error(f"the prompt ends with a turn of the {messages[-1].role}", "end it with the user's turn")
        if system and messages[0].role == "system":
            remedy = "leave data.system empty, or remove the prompt's own system message"
            raise self.error("the prompt has a system message and data.system gives another", remedy)
        return (Message(role="system", content=system), *messages) if system else tuple(messages)

    def message(self, index: int, value: Any) -> Message:
        """One chat turn of the prompt."""
        place = f"{self.turns}[{index}]"
        if not isinstance(value, Mapping):
            raise self.error(f"{place} is {_type(value)}: {quoted(value)}", "write every turn as {role, content}")
        role, content = value.get("role"), value.get("content")
        more = [key for key, other in value.items() if key not in ("role", "content") and other is not None]
        if more:
            raise self.error(f"{place} has the key {more[0]}, which no prompt would show", "write it into the content")
        if role not in ROLES:
            raise self.error(f"{place} has the unknown role {role!r}", f"use {', '.join(ROLES)}")
        if role == "system" and index > 0:
            raise self.error(f"{place} is a system message behind others", "put it first")
        if not isinstance(content, str):
            problem = f"the content of {place} is {_type(content)}: {quoted(content)}"
            raise self.error(problem, "make it a string")
        if not content.strip():
            raise self.error(f"the content of {place} is empty", "write the turn, or remove the row")
        return Message(role=role, content=self.checked(f"the content of {place}", content))


def _type(value: Any) -> str:
    """What a value is in JSON's words."""
    return "null" if value is None else _TYPES.get(type(value), f"a {type(value).__name__}")
