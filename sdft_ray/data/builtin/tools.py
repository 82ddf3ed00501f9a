"""Small tool-call tasks: pick one of a few invented tools and write its JSON arguments.

A prompt holds the documentation of all tools, the format to answer in (Thought, Action, Action Input) and a
request made from a template. The answer is the gold call as JSON, so that a scorer never has to read it out
of prose.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

Row = dict[str, object]
SPLITS = ("train", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """An invented tool with the wordings that ask for it.

    Attributes:
        name: The action's name.
        purpose: One sentence for the documentation.
        arguments: Argument name to its description.
        values: Argument name to the values requests are made with; a number stays a number in the gold call.
        train: Requests to train on, with one `{argument}` for each argument.
        test: Other requests for the same tool.
    """

    name: str
    purpose: str
    arguments: dict[str, str]
    values: dict[str, tuple[str | int, ...]]
    train: tuple[str, ...]
    test: tuple[str, ...]


_CITIES = ("Oslo", "Lima", "Cairo", "Perth", "Quito", "Turin", "Dakar", "Hanoi")
_PEOPLE = ("Anna", "Tom", "Maria", "Ken", "Lucy", "Omar", "Nina", "Paul")

TOOLS: tuple[Tool, ...] = (
    Tool(
        name="skycast",
        purpose="Tells the weather of a city on a day.",
        arguments={"city": "string, the name of the city", "day": "string, a day of the week"},
        values={"city": _CITIES, "day": ("Monday", "Tuesday", "Thursday", "Friday", "Sunday")},
        train=(
            "What will the weather be in {city} on {day}?",
            "Will I need an umbrella in {city} on {day}?",
            "Is it going to be warm in {city} this {day}?",
        ),
        test=("I travel to {city} on {day}. Should I expect rain there?",),
    ),
    Tool(
        name="coinflow",
        purpose="Converts an amount of money from one currency to another.",
        arguments={"amount": "integer", "source": "string, a currency", "target": "string, a currency"},
        values={
            "amount": (15, 40, 75, 120, 300, 950),
            "source": ("euro", "dollar", "pound"),
            "target": ("yen", "franc", "peso"),
        },
        train=("How many {target} do I get for {amount} {source}?", "Convert {amount} {source} to {target}."),
        test=("I have {amount} {source} and need {target}. How much is that?",),
    ),
    Tool(
        name="pingmail",
        purpose="Sends a short message to a person.",
        arguments={"person": "string, who receives it", "message": "string, the text to send"},
        values={
            "person": _PEOPLE,
            "message": (
                "I am late",
                "call me back",
                "lunch is ready",
                "the key is upstairs",
                "see you tonight",
            ),
        },
        train=('Send {person} the message "{message}".', 'Write to {person}: "{message}".'),
        test=('Please let {person} know this: "{message}".',),
    ),
    Tool(
        name="roomgrab",
        purpose="Books a meeting room for a number of people.",
        arguments={
            "room": "string, the color of the room",
            "people": "integer",
            "hour": "integer, from 0 to 23",
        },
        values={"room": ("blue", "green", "red"), "people": (3, 5, 8, 12), "hour": (9, 11, 14, 16)},
        train=(
            "Book the {room} room for {people} people at {hour} o'clock.",
            "We are {people} people and need the {room} room at {hour} o'clock.",
        ),
        test=("Reserve the {room} room at {hour} o'clock, there will be {people} of us.",),
    ),
    Tool(
        name="tuneplay",
        purpose="Plays music of a style at a loudness.",
        arguments={"style": "string, a style of music", "loudness": "integer, from 1 to 10"},
        values={"style": ("jazz", "rock", "opera", "folk", "disco"), "loudness": (2, 3, 5, 7, 9)},
        train=(
            "Play some {style} at loudness {loudness}.",
            "I would like to hear {style} at loudness {loudness}.",
        ),
        test=("Put on {style} music and set the loudness to {loudness}.",),
    ),
)

_INSTRUCTION = """You can use these tools:
{documentation}

Answer in this format and write nothing else:
Thought: one sentence on what to do
Action: the name of one tool
Action Input: the arguments as JSON

Request: {request}"""


def tools(split: str, *, num_rows: int | None = None, seed: int = 0) -> list[Row]:
    """Returns tool-call tasks; `train` and `test` use different wordings of the requests.

    The same split, number and seed give the same rows on every machine. Rows are spread evenly over the tools
    and are all different.

    Args:
        split: `train` or `test`.
        num_rows: How many rows; by default 100 for train and 25 for test.
        seed: Chooses the requests.

    Raises:
        ValueError: There are fewer different requests than rows asked for.
    """
    if num_rows is None:
        num_rows = 100 if split == "train" else 25
    per_tool = [_requests(tool, split) for tool in TOOLS]
    most = len(TOOLS) * min(len(requests) for requests in per_tool)
    if not 1 <= num_rows <= most:
        raise ValueError(f"num_rows={num_rows} is out of range: {split} has 1 to {most} different requests")
    order = random.Random(f"tools-{split}-{seed}")
    for requests in per_tool:
        order.shuffle(requests)
    rows = []
    for number in range(num_rows):
        tool = TOOLS[number % len(TOOLS)]
        request, arguments = per_tool[number % len(TOOLS)][number // len(TOOLS)]
        rows.append(_row(f"tools-{split}-{seed}-{number:03d}", tool, request, arguments))
    return rows


def documentation() -> str:
    """Describes every tool in one line, with the arguments and their types."""
    lines = []
    for tool in TOOLS:
        arguments = "; ".join(f"{name} ({description})" for name, description in tool.arguments.items())
        lines.append(f"- {tool.name}: {tool.purpose} Arguments: {arguments}.")
    return "\n".join(lines)


def _requests(tool: Tool, split: str) -> list[tuple[str, dict[str, str | int]]]:
    """Lists every request a tool's wordings and values can make, each with its arguments."""
    combinations: list[dict[str, str | int]] = [{}]
    for name, values in tool.values.items():
        combinations = [{**known, name: value} for known in combinations for value in values]
    templates = tool.train if split == "train" else tool.test
    return [(template.format(**arguments), arguments) for template in templates for arguments in combinations]


def _row(row_id: str, tool: Tool, request: str, arguments: dict[str, str | int]) -> Row:
    """Makes one row; the demonstration is the gold call in the format the prompt asks for."""
    return {
        "id": row_id,
        "prompt": _INSTRUCTION.format(documentation=documentation(), request=request),
        "demonstration": f"Thought: I should use {tool.name}.\nAction: {tool.name}\n"
        f"Action Input: {json.dumps(arguments)}",
        "answer": json.dumps({"Action": tool.name, "Action_Input": arguments}),
    }
