"""Turns of a conversation: what chat templates render. Plain, frozen and hashable."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

INSTRUCTING = ("system", "developer")  # roles whose turns say how to answer, and ask nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One call of a tool in a turn of the assistant."""

    name: str
    arguments: str  # JSON text of an object, as `json.dumps` writes it without escaping
    call_id: str = ""  # what the tool's answer refers to; "" where the data has none

    @property
    def text(self) -> str:
        """The call as JSON, which no chat template has a part in."""
        return f'{{"name": {json.dumps(self.name, ensure_ascii=False)}, "arguments": {self.arguments}}}'


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One chat turn."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()  # of an assistant's turn
    tool_call_id: str = ""  # of a tool's turn: the call it answers
    name: str = ""  # of a tool's turn: the tool that answers

    @property
    def text(self) -> str:
        """The turn as a person reads it: its content, then a line for each call."""
        return "\n".join([*filter(None, [self.content]), *(call.text for call in self.tool_calls)])

    def mapped(self, function: Callable[[str], str]) -> "Message":
        """The message with `function` of each of its texts but the role, which has to keep JSON texts what they are."""
        calls = (
            ToolCall(name=function(call.name), arguments=function(call.arguments), call_id=function(call.call_id))
            for call in self.tool_calls
        )
        return Message(
            role=self.role,
            content=function(self.content),
            tool_calls=tuple(calls),
            tool_call_id=function(self.tool_call_id),
            name=function(self.name),
        )


def texts_of(turns: Sequence[Message], tools: str = "") -> str:
    """Every text of a conversation that a chat template may show, one behind the other."""
    texts = [tools]
    for turn in turns:
        texts += (turn.content, turn.tool_call_id, turn.name)
        texts += (text for call in turn.tool_calls for text in (call.name, call.arguments, call.call_id))
    return "".join(texts)


def written_out(turns: Sequence[Message]) -> str:
    """A conversation as text: each turn behind its role; one turn alone is its text."""
    if len(turns) == 1:
        return turns[0].text
    return "\n\n".join(f"{turn.role}: {turn.text}" for turn in turns)


def last_of(role: str, turns: Sequence[Message]) -> int:
    """The place of the last turn of a role.

    Raises:
        ValueError: there is none.
    """
    return max(index for index, turn in enumerate(turns) if turn.role == role)
