"""Teacher templates: the turns that replace a prompt's last one, so that they also show what the teacher is given.

A template is a list of turns in Jinja. Its variables are

- `question`: the prompt's last turn;
- `demonstrations`: all that are shown, the row's own first, then the pool's, nearest first. Each prints as its text and
  has the `question` that it answers, of a row of several turns all of them;
- `demonstration`: the first of them;
- `text`: the article;
- `context`: the row's object of fields, as in `{{ context.feedback }}`.

What teacher.context leaves out is empty. Templates run in a sandbox: they read these values and reach nothing else.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from jinja2 import meta, nodes

from sdft_ray.config import DemonstrationSource, TeacherConfig, TeacherContext
from sdft_ray.config.validation import is_template, read_text, template_label
from sdft_ray.conversation import Message, written_out
from sdft_ray.data.chat_template import TEMPLATE_FAULTS
from sdft_ray.data.sandbox import BoundedSandbox
from sdft_ray.errors import ConfigError, first_line


class Turn(NamedTuple):
    """One turn of a template."""

    role: str
    source: str  # Jinja
    for_each: bool = False  # stands once for each demonstration, the first of them last, with `d` for its own


CompiledTurn = tuple[Turn, Callable[[dict[str, Any]], str]]

_TEXT = "{% if text %}Here is a text that bears on it:\n\n{{ text }}\n\n{% endif %}"
# Of the pool, a demonstration answers another question, which stands above it.
_ANNOUNCED = (
    "{% for d in demonstrations %}"
    "{% if d.question == question %}What follows is an example of a response to this question:\n\n"
    "{% else %}What follows is another question:\n\n{{ d.question }}\n\n"
    "and an example of a response to it:\n\n{% endif %}"
    "{{ d }}\n\n{% endfor %}"
)

# The structure of the paper: question, announced example, request for an own answer that shows its reasoning.
_SINGLE_TURN = (
    "{{ question }}\n\n" + _TEXT + _ANNOUNCED + "Now give a response of your own in your own words, including how you "
    "arrive at it."
)

# Asks for the reasoning first, and for the answer behind it.
_THINKING = (
    "{{ question }}\n\n" + _TEXT + _ANNOUNCED + "Now think step by step about the question at the top, and then give a "
    "response of your own to it."
)

# Small models take "including how you arrive at it" for the task itself, and forget a question that stands too far
# above; this one is short, asks for the answer only, and asks again.
_SINGLE_TURN_SHORT = (
    "{{ question }}\n\n" + _TEXT + "{% for d in demonstrations %}{% if d.question != question %}Another question: "
    "{{ d.question }}\n{% endif %}An expert answers: {{ d }}\n\n{% endfor %}"
    "Now answer in your own words: {{ question }}"
)

TEMPLATES: dict[str, tuple[Turn, ...]] = {
    "single_turn": (Turn("user", _SINGLE_TURN),),
    "single_turn_short": (Turn("user", _SINGLE_TURN_SHORT),),
    # Each demonstration as turns of the conversation: what small models imitate best when a format is to be learned.
    "turns": (
        Turn("user", _TEXT + "{{ d.question }}", for_each=True),
        Turn("assistant", "{{ d }}", for_each=True),
        Turn("user", "{{ question }}"),
    ),
    "thinking": (Turn("user", _THINKING),),
}

SHOW_ALL = "loop over them: {% for d in demonstrations %}{{ d.question }} {{ d }}{% endfor %}"

# Which fields of an example the teacher is shown.
SHOWN: dict[TeacherContext, tuple[str, ...]] = {
    TeacherContext.DEMONSTRATION: ("demonstration",),
    TeacherContext.TEXT: ("text",),
    TeacherContext.TEXT_AND_DEMONSTRATION: ("text", "demonstration"),
    TeacherContext.FIELDS: ("context",),
    TeacherContext.NONE: (),
}
_VARIABLES = ("question", "demonstrations", "demonstration", "text", "context")
_MARKED = ("question", "demonstration", "text")  # what a trial rendering can look for


class Demonstration(str):
    """A demonstration as templates print it."""

    question: str  # that it answers, as text
    turns: tuple[Message, ...]  # the same as a conversation; () where the prompt around the template has it

    def __new__(cls, text: str, question: str, turns: tuple[Message, ...] = ()) -> "Demonstration":
        """The text with its question."""
        made = super().__new__(cls, text)
        made.question = question
        made.turns = turns
        return made

    @classmethod
    def answering(cls, text: str, turns: tuple[Message, ...]) -> "Demonstration":
        """The text with all of a conversation as its question."""
        return cls(text, written_out(turns), turns)

    def asked_in(self, turn: Message) -> tuple[Message, ...]:
        """A turn that ends with the question; where that is a conversation, its turns, with what stood above it."""
        if len(self.turns) < 2:
            return (turn,)
        above, first = turn.content.removesuffix(self.question), self.turns[0]
        return (replace(first, content=above + first.content), *self.turns[1:])


class TeacherTemplate:
    """A compiled template, tried once with markers for question and context."""

    def __init__(self, teacher: TeacherConfig, key: str = "teacher.template"):
        """Refuses the template under the name of the setting it comes from.

        Raises:
            ConfigError: it cannot be read, or does not show the question and what the context needs.
        """
        self._key = key
        self.label = template_label(teacher.template)
        sandbox = BoundedSandbox()
        try:
            turns = _read(teacher.template, key)
            self._turns = tuple((turn, sandbox.compile_turn(turn.source)) for turn in turns)
            trees = [sandbox.parse(turn.source) for turn in turns]
        except TEMPLATE_FAULTS as error:
            raise self._fault(error) from error
        found = (_path(node) for tree in trees for node in tree.find_all((nodes.Getattr, nodes.Getitem)))
        self._paths = sorted({path for path in found if path}, key=len)
        self.shows_several = True
        names = set().union(*map(meta.find_undeclared_variables, trees)) - set(sandbox.globals)
        self.asks_fields = "context" in names
        if self.asks_fields:
            self._check_named(teacher.context, names)
        else:
            self._check_shown(teacher)
        self._check_several(teacher)

    @property
    def roles(self) -> tuple[str, ...]:
        """Whose turns they are, in their order, around one demonstration."""
        return tuple(turn.role for turn, _ in self._turns)

    def render(
        self, *, question: str, demonstrations: Sequence[Demonstration] = (), text: str = "", context: str = ""
    ) -> tuple[Message, ...]:
        """The turns with these values in them; `context` is the JSON text of an object.

        Raises:
            LackingField: the template asks for a field that the context has not.
            ConfigError: the template fails on the values, or asks for what the sandbox keeps from it.
        """
        fields = json.loads(context) if context else {}
        values = {
            "question": question,
            "demonstrations": list(demonstrations),
            "demonstration": next(iter(demonstrations), ""),
            "text": text,
            "context": fields,
        }
        messages: list[Message] = []
        try:
            for turns in _blocks(self._turns):
                # The nearest stands next to the question; an article, once, above all.
                for place, d in enumerate(reversed(demonstrations) if turns[0][0].for_each else [None]):
                    own = values | ({} if d is None else {"d": d, "text": "" if place else text})
                    for turn, render in turns:
                        message = Message(role=turn.role, content=render(own))
                        messages += d.asked_in(message) if d is not None and turn.role == "user" else (message,)
        except jinja2.UndefinedError as error:
            for path in self._paths:
                if _lacks(fields, path) and f"'{path[-1]}'" in str(error):
                    raise LackingField(".".join(path)) from error
            raise self._fault(error) from error
        except TEMPLATE_FAULTS as error:
            raise self._fault(error) from error
        return tuple(messages)

    def _fault(self, error: Exception) -> ConfigError:
        remedy = "use question, demonstration, demonstrations, text and context as variables, in valid Jinja"
        return ConfigError(self._key, self.label, f"cannot be rendered ({first_line(error)})", remedy)

    def _check_named(self, context: TeacherContext, names: set[str]) -> None:
        """Of a template that asks for fields of its rows, which a trial has not: what it shows must be named in it."""
        if unknown := sorted(names - set(_VARIABLES)):
            raise self._fault(jinja2.UndefinedError(f"{unknown[0]!r} is undefined"))
        self.shows_several = "demonstrations" in names
        for field in ("question", *SHOWN[context]):
            if field not in names and not (field == "demonstration" and self.shows_several):
                raise self._hides(field, context)

    def _check_shown(self, teacher: TeacherConfig) -> None:
        context = teacher.context
        shown = ("question", *SHOWN[context])
        if "context" in shown:
            raise self._hides("context", context)
        markers = {field: f"<{field}>" if field in shown else "" for field in _MARKED}
        marked = markers["demonstration"], "<second demonstration>"
        demonstrations = [Demonstration(each, markers["question"]) for each in marked if "demonstration" in shown]
        turns = self.render(question=markers["question"], demonstrations=demonstrations, text=markers["text"])
        contents = [turn.content for turn in turns]
        for field in shown:
            if not any(markers[field] in content for content in contents):
                raise self._hides(field, context)
        if not all(content.strip() for content in contents):
            problem = f"leaves a turn empty under teacher.context={context.name}"
            raise ConfigError(self._key, self.label, problem, "choose single_turn or another teacher.context")
        self.shows_several = any(marked[1] in content for content in contents)

    def _check_several(self, teacher: TeacherConfig) -> None:
        several = teacher.demonstrations is DemonstrationSource.OWN_AND_POOL or teacher.pool.num > 1
        if teacher.shows_pool and several and not self.shows_several:
            problem = f"shows the first demonstration only, though teacher.demonstrations={teacher.demonstrations.name}"
            problem += f" and teacher.pool.num={teacher.pool.num} give several"
            raise ConfigError(self._key, self.label, problem, SHOW_ALL)

    def _hides(self, field: str, context: TeacherContext) -> ConfigError:
        problem = f"does not show the {field}, though teacher.context={context.name}"
        written = "{{ context.FIELD }}" if field == "context" else f"{{{{ {field} }}}}"
        remedy = f"write {written} into the template, or choose another teacher.context"
        return ConfigError(self._key, self.label, problem, remedy)


class LackingField(ValueError):
    """A template asks for a field that an example's context has not; its one argument is the field's name."""


def check_template(teacher: TeacherConfig, key: str) -> None:
    """Refuses a template under the name of the setting it comes from.

    Raises:
        ConfigError: as `TeacherTemplate`.
    """
    TeacherTemplate(teacher, key)


def _path(node: nodes.Node) -> tuple[str, ...] | None:
    """The names by which an expression goes from `context` to a field; None where it does not."""
    if isinstance(node, nodes.Name):
        return () if node.name == "context" else None
    if not isinstance(node, nodes.Getattr | nodes.Getitem):
        return None
    name = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
    before = _path(node.node)
    return (*before, name) if before is not None and isinstance(name, str) else None


def _lacks(fields: Any, path: tuple[str, ...]) -> bool:
    """True when an object on the path has no field of the next name."""
    for name in path:
        if not isinstance(fields, dict):
            return False
        if name not in fields:
            return True
        fields = fields[name]
    return False


def _blocks(turns: Sequence[CompiledTurn]) -> Iterator[list[CompiledTurn]]:
    """Turns that stand once for each demonstration together, and those that stand once."""
    return (list(block) for _, block in groupby(turns, key=lambda turn: turn[0].for_each))


def _read(template: str, key: str) -> tuple[Turn, ...]:
    if template in TEMPLATES:
        return TEMPLATES[template]
    if is_template(template):
        return (Turn("user", template.strip()),)
    path = Path(template).expanduser()
    if not path.is_file():
        remedy = f"choose one of {', '.join(TEMPLATES)}, give the path of a Jinja file, or write the text itself"
        problem = "is no built-in template, no file, and no text with {{ question }} in it"
        raise ConfigError(key, template, problem, remedy)
    return (Turn("user", read_text(key, path).strip()),)
