"""One row of a data set as an `Example`, or a refusal that names its line, its column and the remedy.

What comes later never meets a malformed row.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sdft_ray.conversation import Message
from sdft_ray.data.tools import read_tools
from sdft_ray.data.turns import (
    ASSISTANT,
    SYSTEM,
    TOOL,
    USER,
    checked_text,
    json_text,
    parsed_json,
    read_turn,
    read_turns,
)
from sdft_ray.data.values import is_absent, null_key, quoted, type_name, without_nulls
from sdft_ray.errors import DataError
from sdft_ray.examples import Example

PROMPT, DEMONSTRATION, DEMONSTRATIONS = "prompt", "demonstration", "demonstrations"
MESSAGES = "messages"  # whole conversations, as fine-tuning services take them
TEACHER_MESSAGES = "teacher_messages"  # what the teacher reads, word for word
TOOLS = "tools"
KEYS = (
    "id",
    PROMPT,
    DEMONSTRATION,
    DEMONSTRATIONS,
    MESSAGES,
    TOOLS,
    TEACHER_MESSAGES,
    "text",
    "context",
    "answer",
    "acceptable",
)
COLUMNS_KEY = "data.columns"
WRITE = {DEMONSTRATION: "write what an expert would answer", "text": "write the text"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRules:
    """What is asked of every row of a source."""

    columns: Mapping[str, str]  # our key -> the data's column
    system: str  # system message to put before every prompt; "" adds none
    required: Collection[str]  # keys that every row has to fill
    shown: Collection[str] = ()  # keys that the teacher's template shows: rows with teacher_messages may lack them
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
        self.row = row

    def error(self, problem: str, remedy: str) -> DataError:
        """A refusal of this row."""
        return DataError(self.source, self.line, problem, remedy)

    def example(self) -> Example:
        """The row as an example.

        Raises:
            DataError: a value is missing, of the wrong type, empty, or no text.
        """
        teacher_messages = self.teacher_messages()
        self.check_functions()
        required = {*self.rules.required, *(() if teacher_messages else self.rules.shown)}
        prompt, turn = self.conversation(PROMPT in required)
        demonstration, *further = self.demonstrations(turn.text if turn else "", DEMONSTRATION in required)
        turns = (*prompt, *teacher_messages, *filter(None, [turn]))
        return Example(
            example_id=self.identifier(),
            prompt=prompt,
            demonstration=demonstration,
            text=self.lines("text", "text" in required),
            answer=self.string_or_json("answer"),
            acceptable=self.string_or_json("acceptable"),
            tools=read_tools(self.value(TOOLS, False), self.column(TOOLS), self.error, turns),
            demonstration_turn=turn if turn and turn.tool_calls else None,
            teacher_messages=teacher_messages,
            further_demonstrations=tuple(further),
            context=self.fields("context", "context" in required),
        )

    def column(self, key: str) -> str:
        """The data's column of our key."""
        return self.columns.get(key, key)

    def value(self, key: str, required: bool) -> Any:
        """The value under our key; None where an optional one is absent."""
        column = self.column(key)
        value = self.row.get(column)
        missed = (
            column != key and column not in self.row and not self.rules.shared_columns
        )  # another name was asked for
        if value is None and (required or missed):
            problem = f"{column} is null" if column in self.row else f"has no column {column}"
            names = ", ".join(map(_shown, self.row)) or "none"
            remedy = f"fill it, or name another with {self.rules.columns_key}.{key}"
            if key == PROMPT and column not in self.row and self.column(MESSAGES) in self.row:
                problem, remedy = f"{self.column(MESSAGES)} is empty", "write its turns, or remove the row"
            elif key == PROMPT:
                remedy += f", or a conversation's with {self.rules.columns_key}.{MESSAGES}"
            if key == DEMONSTRATION and not is_absent(self.row.get(self.column(MESSAGES))):
                remedy = f"end {self.column(MESSAGES)} with a turn of the assistant, which is learned; or {remedy}"
            raise self.error(problem, f"{remedy}; the row's columns are: {names}")
        return value

    def check_functions(self) -> None:
        """Refuses tools under their earlier name, which no prompt would show."""
        if not is_absent(self.row.get("functions")) and self.column(TOOLS) not in self.row:
            problem = f"has functions, and no {self.column(TOOLS)} that a prompt would show"
            raise self.error(problem, f"rename the column, or set +{self.rules.columns_key}.{TOOLS}=functions")

    def wrong_type(self, key: str, value: Any, wanted: str) -> DataError:
        """A refusal of the type of a value."""
        problem = f"{self.column(key)} is {type_name(value)}: {quoted(value)}"
        return self.error(problem, f"make it {wanted}, or name another with {self.rules.columns_key}.{key}")

    def string(self, key: str) -> str:
        """An optional string; "" where it is absent."""
        value = self.value(key, required=False)
        if value is not None and not isinstance(value, str):
            raise self.wrong_type(key, value, "a string")
        return checked_text(value or "", self.column(key), self.error)

    def string_or_json(self, key: str) -> str:
        """An optional string, or the JSON text of an optional list, object or integer; "" where it is absent.

        Refuses null for a key, which a table fills in at every depth: it would be asked of a completion.
        """
        value = self.value(key, required=False)
        if isinstance(value, bool) or not isinstance(value, list | dict | int):
            return self.string(key)
        if empty := null_key(value):
            problem = f"{self.column(key)} has null for {empty!r}, as tables fill in what a row does not name"
            raise self.error(problem, "leave it out, or write the whole as JSON text, in which null stays")
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

    def demonstrations(self, own: str, required: bool) -> tuple[str, ...]:
        """The row's own demonstration, then those of its list that differ; ("",) where it has none.

        Args:
            own: the demonstration where it is a turn of the row, else "".
            required: whether the row has to have one.
        """
        value, column = self.value(DEMONSTRATIONS, required=False), self.column(DEMONSTRATIONS)
        if value is None:
            return (own or self.lines(DEMONSTRATION, required),)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self.wrong_type(DEMONSTRATIONS, value, "a list of strings, each a demonstration")
        blank = next((place for place, each in enumerate(value) if not each.strip()), None)
        if not value or blank is not None:
            problem = f"{column} is empty" if blank is None else f"{column}[{blank}] is empty"
            raise self.error(problem, f"{WRITE[DEMONSTRATION]}, or leave it out")
        first = own or self.lines(DEMONSTRATION, required=False)
        listed = (checked_text(each, column, self.error) for each in value)
        return tuple(dict.fromkeys([*([first] if first.strip() else []), *listed]))

    def fields(self, key: str, required: bool) -> str:
        """The JSON text of an object, without the fields that are null; "" where an optional one is absent."""
        value = self.value(key, required)
        if value is None:
            return ""
        if not isinstance(value, Mapping):
            raise self.wrong_type(key, value, "an object of named fields")
        # A table has every field in every row, null where the row had none.
        return json_text(without_nulls(value), self.column(key), self.error)

    def conversation(self, required: bool) -> tuple[tuple[Message, ...], Message | None]:
        """The prompt as chat turns, () where an optional one is absent; and the demonstration where it is a turn."""
        turn = self.demonstration_turn()
        whole = self.value(MESSAGES, required=False)
        if self.column(PROMPT) not in (PROMPT, MESSAGES) or self.row.get(self.column(PROMPT)) is not None:
            whole = None
        if is_absent(whole):
            return self.prompt(self.value(PROMPT, required)), turn
        turns = self.turns(MESSAGES, whole)
        if turns[-1].role != ASSISTANT:
            return self.ready(turns, MESSAGES), turn
        if turn is None and self.column(DEMONSTRATION) == DEMONSTRATION and is_absent(self.row.get(DEMONSTRATION)):
            turn = turns[-1]
        return self.ready(turns[:-1], MESSAGES), turn

    def demonstration_turn(self) -> Message | None:
        """The demonstration where the row has it as a turn of the assistant, by itself or in a list; else None."""
        value = self.row.get(self.column(DEMONSTRATION))
        [turn] = value if isinstance(value, list) and len(value) == 1 else [value]
        if not isinstance(turn, Mapping) or "role" not in turn:
            return None
        message = read_turn(turn, self.column(DEMONSTRATION), self.error)
        if message.role != ASSISTANT:
            problem = f"{self.column(DEMONSTRATION)} is a turn of the {message.role}"
            raise self.error(problem, "give the turn of the assistant that is to be learned, or its text")
        return message

    def teacher_messages(self) -> tuple[Message, ...]:
        """The conversation that the teacher reads; () where the row has none."""
        value = self.value(TEACHER_MESSAGES, required=False)
        if is_absent(value):
            return ()
        return self.ready(self.turns(TEACHER_MESSAGES, value), TEACHER_MESSAGES, system="")

    def prompt(self, value: Any) -> tuple[Message, ...]:
        """The prompt as chat turns; () where there is none."""
        if value is None:
            return ()
        if isinstance(value, str):
            value = [{"role": USER, "content": value}]
        return self.ready(self.turns(PROMPT, value), PROMPT)

    def turns(self, key: str, value: Any) -> tuple[Message, ...]:
        """The turns of a conversation, which may stand in a string as JSON text."""
        place = self.column(key)
        if isinstance(value, str):
            value = parsed_json(value, place, self.error)
        if not isinstance(value, list):
            raise self.wrong_type(key, value, f"{'a string or ' if key == PROMPT else ''}a list of {{role, content}}")
        if not value:
            raise self.error(f"{place} has no message", "give at least the user's turn")
        return read_turns(value, place, self.error)

    def ready(self, turns: tuple[Message, ...], key: str, system: str | None = None) -> tuple[Message, ...]:
        """The turns with `system` (data.system where None) before them; refuses those that no completion could follow.

        The last turn is the user's, or that of a tool which has answered.
        """
        place, system = self.column(key), self.rules.system if system is None else system
        if USER not in (roles := [turn.role for turn in turns]):
            raise self.error(f"{place} has no turn of the user in front of the answer", "give at least that")
        if roles[-1] not in (USER, TOOL):
            remedy = "end it with the user's turn, or a tool's"
            if roles[-1] == ASSISTANT:
                remedy += (
                    "; an answer to learn from belongs into demonstration, or with its conversation into messages, and "
                    "the beginning of one is not gone on with: write it into the question"
                )
            raise self.error(f"{place} ends with a turn of the {roles[-1]}", remedy)
        if system and SYSTEM in roles:
            remedy = "leave data.system empty, or remove the prompt's own system message"
            raise self.error(f"{place} has a system message and data.system gives another", remedy)
        return (Message(role=SYSTEM, content=system), *turns) if system else turns


def _shown(column: Any) -> str:
    """The name of a column as a message lists it, in quotation marks where spaces at its ends would not be seen."""
    name = str(column)
    return name if name == name.strip() and name else repr(name)
