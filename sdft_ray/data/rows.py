"""The values of one row under our keys, or a refusal that names its line, its column and the remedy.

What comes later never meets a malformed row.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sdft_ray.data.sharegpt import CONVERSATIONS
from sdft_ray.data.turns import SYSTEM
from sdft_ray.data.values import (
    checked_text,
    is_absent,
    json_text,
    null_key,
    parsed_json,
    quoted,
    type_name,
    without_nulls,
)
from sdft_ray.errors import DataError

PROMPT, DEMONSTRATION, DEMONSTRATIONS = "prompt", "demonstration", "demonstrations"
MESSAGES = "messages"  # whole conversations, as fine-tuning services take them
TEACHER_MESSAGES = "teacher_messages"  # what the teacher reads, word for word
TOOLS = "tools"
CONTEXT = "context"
ANSWERS = ("answer", "acceptable")
ON_DEMAND = (CONTEXT, *ANSWERS)
KEYS = (
    "id",
    PROMPT,
    DEMONSTRATION,
    DEMONSTRATIONS,
    MESSAGES,
    TOOLS,
    TEACHER_MESSAGES,
    SYSTEM,
    "text",
    *ON_DEMAND,
)
FUNCTIONS = "functions"
# Columns that other libraries put into prompts, and that are not read here: what is wrong and the remedy.
LOST = {
    FUNCTIONS: ("and no tools that a prompt would show", "rename the column, or set +{}.tools=functions"),
    "input": ("which no prompt would show", "write it into the prompt, or name what it is with {}"),
    "image": ("and images are not read", "remove the row, or write what it shows as text"),
    "images": ("and images are not read", "remove the row, or write what they show as text"),
    "audio": ("and sound is not read", "remove the row, or write what it says as text"),
}
COLUMNS_KEY = "data.columns"
WRITE = {DEMONSTRATION: "write what an expert would answer", "text": "write the text"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRules:
    """What is asked of every row of a source."""

    columns: Mapping[str, str]  # our key -> the data's column; "" leaves it unread
    system: str  # system message to put before every prompt; "" adds none
    required: Collection[str]  # keys that every row has to fill
    shown: Collection[str] = ()  # keys that the teacher's template shows: rows with teacher_messages may lack them
    reads: Collection[str] = ()  # of `ON_DEMAND` those that something reads; under the others may stand anything
    columns_key: str = COLUMNS_KEY  # the setting that names the columns
    shared_columns: bool = False  # the columns are those of other data: optional ones may be absent here


class Row:
    """One row with its place, so that every refusal can name it."""

    def __init__(self, source: str, line: int, row: Any, rules: RowRules, name: str):
        """`name` is the example's where the row has no id; raises `DataError` where the row is no object."""
        self.name = name
        self.source, self.line, self.rules, self.columns = source, line, rules, rules.columns
        if not isinstance(row, Mapping):
            raise self.error(f"is {type_name(row)}, not an object: {quoted(row)}", "write one JSON object a line")
        self.values = row

    def error(self, problem: str, remedy: str) -> DataError:
        """A refusal of this row."""
        return DataError(self.source, self.line, problem, remedy)

    def column(self, key: str) -> str:
        """The data's column of our key; "" where none is read."""
        if key == MESSAGES and MESSAGES not in self.columns and MESSAGES not in self.values:
            return CONVERSATIONS if CONVERSATIONS in self.values else MESSAGES
        return self.columns.get(key, key)

    def has(self, key: str) -> bool:
        """True when something stands under our key."""
        column = self.column(key)
        return bool(column) and not is_absent(self.values.get(column))

    @property
    def reads_messages(self) -> bool:
        """True when the row's messages are named, or no prompt with something else to learn stands beside them.

        Some data sets repeat the first question of a conversation as its prompt.
        """
        given, whole = self.column(PROMPT), self.values.get(self.column(MESSAGES))
        if given == MESSAGES:
            return not isinstance(whole, str) or whole.lstrip().startswith("[")
        if self.columns.get(MESSAGES, MESSAGES) != MESSAGES:
            return True
        others = (DEMONSTRATION, DEMONSTRATIONS, TEACHER_MESSAGES, "text", "answer")
        return given in (PROMPT, "") and not (self.has(PROMPT) and any(map(self.has, others)))

    @property
    def names(self) -> str:
        """Of the row's columns, for a message."""
        return ", ".join(map(_shown, self.values)) or "none"

    def value(self, key: str, required: bool) -> Any:
        """The value under our key; None where an optional one is absent."""
        column = self.column(key)
        value = self.values.get(column) if column else None
        # another name was asked for
        missed = column not in ("", key) and column not in self.values and not self.rules.shared_columns
        if value is None and (required or missed):
            raise self._lacking(key, column)
        return value

    def _lacking(self, key: str, column: str) -> DataError:
        """A refusal of a row without what has to stand in a column."""
        of_columns, whole = self.rules.columns_key, self.column(MESSAGES)
        problem = f"{column} is null" if column in self.values else f"has no column {column}"
        remedy = f"fill it, or name another with {of_columns}.{key}"
        if key == PROMPT and column not in self.values and column in (PROMPT, "") and whole in self.values:
            problem, remedy = f"{whole} is empty", "write its turns, or remove the row"
        elif not column:
            problem = f"{of_columns}.{key}='' leaves out the {key}, and every row has to have it"
            remedy = "name its column"
        elif key == PROMPT:
            remedy += f", or a conversation's with {of_columns}.{MESSAGES}"
        if key in (PROMPT, DEMONSTRATION) and self.has(MESSAGES):
            learned = f"end {whole} with a turn of the assistant, which is learned"
            if not self.reads_messages:
                learned = f"set {of_columns}.{PROMPT}='', where {whole} are to be read"
            elif column not in ("", DEMONSTRATION):
                learned = f"leave out {of_columns}.{DEMONSTRATION}={column}, to learn the last turn of {whole}"
            remedy = f"{learned}; or {remedy}"
        if key == DEMONSTRATION and key in self.rules.shown and key not in self.rules.required:
            remedy += ", or show those of other rows with teacher.demonstrations=POOL"
        return self.error(problem, f"{remedy}; the row's columns are: {self.names}")

    def check_lost(self) -> None:
        """Refuses what is filled, belongs to the question, and would be shown by no prompt; see `LOST`."""
        named = {self.column(key) for key in KEYS}
        for column, (problem, remedy) in LOST.items():
            value = self.values.get(column)
            if is_absent(value) or (isinstance(value, str) and not value.strip()) or self.columns.get(column) == "":
                continue
            if column not in named and not (column == FUNCTIONS and self.has(TOOLS)):
                of_columns = self.rules.columns_key
                unread = f"where it is no part of the question: set +{of_columns}.{column}=''"
                raise self.error(f"has {column}, {problem}", f"{remedy.format(of_columns)}; or, {unread}")

    def wrong_type(self, key: str, value: Any, wanted: str) -> DataError:
        """A refusal of the type of a value."""
        problem = f"{self.column(key)} is {type_name(value)}: {quoted(value)}"
        other = f"name another with {self.rules.columns_key}.{key}, where '' reads none"
        return self.error(problem, f"make it {wanted}, or {other}")

    def string_or_json(self, key: str) -> str:
        """A string, or the JSON text of another value; "" where it is absent or nothing reads it.

        Refuses what a table has made of the value: null for a key, and 5.0, which it writes for 5 beside empty cells.
        """
        value = self.value(key, required=False) if key in self.rules.reads else None
        if value is None or isinstance(value, str):
            return checked_text(value or "", self.column(key), self.error)
        if empty := null_key(value):
            problem = f"{self.column(key)} has null for {empty!r}, as tables fill in what a row does not name"
            raise self.error(problem, "leave it out, or write the whole as JSON text, in which null stays")
        if not isinstance(value, bool | int | float | list | dict) or (isinstance(value, float) and value.is_integer()):
            raise self.wrong_type(key, value, "a string")
        return json_text(value, self.column(key), self.error)

    def identifier(self) -> str:
        """The row's id, or its name."""
        value = self.value("id", required=False)
        if value is None or value == "":
            return self.name
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.wrong_type("id", value, "a string or an integer")
        return checked_text(str(value), self.column("id"), self.error)

    def lines(self, key: str, required: bool) -> str:
        """A string, or a list of strings joined with newlines; "" where an optional one is absent."""
        value = self.value(key, required)
        parts = value if isinstance(value, list) else [] if value is None else [value]
        for part in parts:
            if not isinstance(part, str):
                raise self.wrong_type(key, value, "a string or a list of strings")
        text = checked_text("\n".join(parts), self.column(key), self.error)
        if required and not text.strip():
            raise self.error(f"{self.column(key)} is empty", f"{WRITE[key]}, or remove the row")
        return text

    def fields(self, key: str) -> str:
        """The JSON text of an object, without the fields that are null; "" where it is absent or nothing reads it.

        The object may be JSON text, as in CSV.
        """
        value = self.value(key, required=False) if key in self.rules.reads else None
        if is_absent(value):
            return ""
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = parsed_json(value, self.column(key), self.error)
        if not isinstance(value, Mapping):
            raise self.wrong_type(key, value, "an object of named fields")
        # A table has every field in every row, null where the row had none.
        return json_text(without_nulls(value), self.column(key), self.error)


def _shown(column: Any) -> str:
    """The name of a column as a message lists it, in quotation marks where spaces at its ends would not be seen."""
    name = str(column)
    return name if name == name.strip() and name else repr(name)
