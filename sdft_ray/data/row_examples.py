"""A row as an example: its prompt, what is learned, and what the teacher reads."""

from collections.abc import Mapping
from typing import Any

from sdft_ray.conversation import Message
from sdft_ray.data.rows import (
    CONTEXT,
    DEMONSTRATION,
    DEMONSTRATIONS,
    MESSAGES,
    PROMPT,
    TEACHER_MESSAGES,
    TOOLS,
    WRITE,
    Row,
)
from sdft_ray.data.tools import read_tools
from sdft_ray.data.turns import ASSISTANT, SYSTEM, TOOL, USER, read_turn, read_turns
from sdft_ray.data.values import checked_text, is_absent, parsed_json, quoted
from sdft_ray.examples import Example


def read_example(row: Row) -> Example:
    """The row as an example.

    Raises:
        DataError: a value is missing, of the wrong type, empty, or no text.
    """
    teacher_messages = _teacher_messages(row)
    row.check_lost()
    required = {*row.rules.required, *(() if teacher_messages else row.rules.shown)}
    prompt, turn = _conversation(row, PROMPT in required)
    demonstration, *further = _demonstrations(row, turn.text if turn else "", DEMONSTRATION in required)
    turns = (*prompt, *teacher_messages, *filter(None, [turn]))
    return Example(
        example_id=row.identifier(),
        prompt=prompt,
        demonstration=demonstration,
        text=row.lines("text", "text" in required),
        answer=row.string_or_json("answer"),
        acceptable=row.string_or_json("acceptable"),
        tools=read_tools(row.value(TOOLS, False), row.column(TOOLS), row.error, turns),
        demonstration_turn=turn if turn and turn.tool_calls else None,
        teacher_messages=teacher_messages,
        further_demonstrations=tuple(further),
        context=row.fields(CONTEXT),
    )


def _demonstrations(row: Row, own: str, required: bool) -> tuple[str, ...]:
    """The row's own demonstration, then those of its list that differ; ("",) where it has none.

    Args:
        row: the row.
        own: the demonstration where it is a turn of the row, else "".
        required: whether the row has to have one.
    """
    value, column = row.value(DEMONSTRATIONS, required=False), row.column(DEMONSTRATIONS)
    if value is None:
        return (own or row.lines(DEMONSTRATION, required),)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise row.wrong_type(DEMONSTRATIONS, value, "a list of strings, each a demonstration")
    blank = next((place for place, each in enumerate(value) if not each.strip()), None)
    if not value or blank is not None:
        problem = f"{column} is empty" if blank is None else f"{column}[{blank}] is empty"
        raise row.error(problem, f"{WRITE[DEMONSTRATION]}, or leave it out")
    first = own or row.lines(DEMONSTRATION, required=False)
    listed = (checked_text(each, column, row.error) for each in value)
    return tuple(dict.fromkeys([*([first] if first.strip() else []), *listed]))


def _conversation(row: Row, required: bool) -> tuple[tuple[Message, ...], Message | None]:
    """The prompt as chat turns, () where an optional one is absent; and the demonstration where it is a turn."""
    turn = _demonstration_turn(row)
    whole = row.value(MESSAGES, required=False)
    if is_absent(whole) or not row.reads_messages:
        return _prompt(row, row.value(PROMPT, required)), turn
    turns = _turns(row, MESSAGES, whole)
    _check_same(row, turns)
    if turns[-1].role != ASSISTANT:
        return _ready(row, turns, MESSAGES), turn
    if turn is None and row.column(DEMONSTRATION) == DEMONSTRATION and is_absent(row.values.get(DEMONSTRATION)):
        turn = turns[-1]
    return _ready(row, turns[:-1], MESSAGES), turn


def _check_same(row: Row, turns: tuple[Message, ...]) -> None:
    """Refuses a prompt beside messages of which it is no part: one of the two would be lost."""
    if not row.has(PROMPT) or row.column(PROMPT) == MESSAGES:
        return
    said = {" ".join(turn.text.split()) for turn in turns}
    value = row.values[row.column(PROMPT)]
    prompt = [value] if isinstance(value, str) else [turn.text for turn in _turns(row, PROMPT, value)]
    if any(" ".join(text.split()) not in said for text in prompt):
        place, key = row.column(MESSAGES), row.rules.columns_key
        problem = f"has {row.column(PROMPT)} and {place}, which do not hold it: {quoted(prompt[-1])}"
        raise row.error(problem, f"leave one of them unread: +{key}.{MESSAGES}='' or {key}.{PROMPT}=''")


def _demonstration_turn(row: Row) -> Message | None:
    """The demonstration where the row has it as a turn of the assistant, by itself or in a list; else None."""
    value = row.values.get(row.column(DEMONSTRATION))
    [turn] = value if isinstance(value, list) and len(value) == 1 else [value]
    if not isinstance(turn, Mapping) or not {"role", "from"} & turn.keys():
        return None
    message = read_turn(turn, row.column(DEMONSTRATION), row.error)
    if message.role != ASSISTANT:
        problem = f"{row.column(DEMONSTRATION)} is a turn of the {message.role}"
        raise row.error(problem, "give the turn of the assistant that is to be learned, or its text")
    return message


def _teacher_messages(row: Row) -> tuple[Message, ...]:
    """The conversation that the teacher reads; () where the row has none."""
    value = row.value(TEACHER_MESSAGES, required=False)
    if is_absent(value):
        return ()
    return _ready(row, _turns(row, TEACHER_MESSAGES, value), TEACHER_MESSAGES, system="")


def _prompt(row: Row, value: Any) -> tuple[Message, ...]:
    """The prompt as chat turns; () where there is none."""
    if value is None:
        return ()
    if isinstance(value, str):
        value = [{"role": USER, "content": value}]
    return _ready(row, _turns(row, PROMPT, value), PROMPT)


def _turns(row: Row, key: str, value: Any) -> tuple[Message, ...]:
    """The turns of a conversation, which may stand in a string as JSON text."""
    place = row.column(key)
    if isinstance(value, str):
        value = parsed_json(value, place, row.error)
    if not isinstance(value, list):
        raise row.wrong_type(key, value, f"{'a string or ' if key == PROMPT else ''}a list of {{role, content}}")
    turns = read_turns(value, place, row.error)
    if not turns:
        raise row.error(f"{place} has no message", "give at least the user's turn")
    return turns


def _ready(row: Row, turns: tuple[Message, ...], key: str, system: str | None = None) -> tuple[Message, ...]:
    """The turns with `system` before them, of None with data.system or the row's own; refuses what none could answer.

    The last turn is the user's, or that of a tool which has answered.
    """
    place, own = row.column(key), ""
    if system is None:
        system, own = row.rules.system, row.lines(SYSTEM, required=False)
    own = own if own.strip() else ""
    if USER not in (roles := [turn.role for turn in turns]):
        raise row.error(f"{place} has no turn of the user in front of the answer", "give at least that")
    if roles[-1] not in (USER, TOOL):
        remedy = "end it with the user's turn, or a tool's"
        if roles[-1] == ASSISTANT:
            remedy += (
                "; an answer to learn from belongs into demonstration, or with its conversation into messages, and "
                "the beginning of one is not gone on with: write it into the question"
            )
        raise row.error(f"{place} ends with a turn of the {roles[-1]}", remedy)
    if system and SYSTEM in roles:
        remedy = "leave data.system empty, or remove the prompt's own system message"
        raise row.error(f"{place} has a system message and data.system gives another", remedy)
    if own and (system or SYSTEM in roles):
        other = "data.system gives" if system else f"{place} has"
        problem = f"{row.column(SYSTEM)} is a system message, and {other} another: {quoted(own)}"
        raise row.error(problem, f"leave one of them out; +{row.rules.columns_key}.{SYSTEM}='' reads no column")
    system = system or own
    return (Message(role=SYSTEM, content=system), *turns) if system else turns
