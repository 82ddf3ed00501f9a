"""Teacher templates: the turns that replace a prompt's last one, so that they also show the demonstration.

A template is a list of (role, Jinja) pairs over `question`, `demonstration` and `text`; what the context leaves out is
"". Templates run in a sandbox: they read their three values and reach nothing else.
"""

from pathlib import Path

import jinja2

from sdft_ray.config import TeacherConfig, TeacherContext
from sdft_ray.config.validation import is_template, read_text
from sdft_ray.data.chat_template import TEMPLATE_FAULTS
from sdft_ray.data.sandbox import BoundedSandbox
from sdft_ray.errors import ConfigError, first_line
from sdft_ray.records import Message

Turns = tuple[tuple[str, str], ...]

_TEXT = "{% if text %}Here is a text that bears on it:\n\n{{ text }}\n\n{% endif %}"

# The structure of the paper: question, announced example, request for an own answer that shows its reasoning.
_SINGLE_TURN = (
    "{{ question }}\n\n" + _TEXT + "{% if demonstration %}"
    "What follows is an example of a response to this question:\n\n{{ demonstration }}\n\n{% endif %}"
    "Now give a response of your own in your own words, including how you arrive at it."
)

# Small models take "including how you arrive at it" for the task itself, and forget a question that stands too far
# above; this one is short, asks for the answer only, and asks again.
_SINGLE_TURN_SHORT = (
    "{{ question }}\n\n" + _TEXT + "{% if demonstration %}An expert answers: {{ demonstration }}\n\n{% endif %}"
    "Now answer in your own words: {{ question }}"
)

_QUESTION = _TEXT + "{{ question }}"

TEMPLATES: dict[str, Turns] = {
    "single_turn": (("user", _SINGLE_TURN),),
    "single_turn_short": (("user", _SINGLE_TURN_SHORT),),
    # The demonstration as a turn of the conversation: what small models imitate best when a format is to be
    # learned.
    "turns": (("user", _QUESTION), ("assistant", "{{ demonstration }}"), ("user", "{{ question }}")),
}

LABEL_LENGTH = 60  # characters of such a text that a message quotes

# Which fields of an example the teacher is shown.
SHOWN: dict[TeacherContext, tuple[str, ...]] = {
    TeacherContext.DEMONSTRATION: ("demonstration",),
    TeacherContext.TEXT: ("text",),
    TeacherContext.TEXT_AND_DEMONSTRATION: ("text", "demonstration"),
    TeacherContext.NONE: (),
}


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
            sources = _read(teacher.template, key)
            self._turns = tuple((role, sandbox.compile_turn(turn)) for role, turn in sources)
        except jinja2.TemplateError as error:
            raise self._fault(error) from error
        self._check_shown(teacher.context)

    @property
    def roles(self) -> tuple[str, ...]:
        """Whose turns they are, in their order."""
        return tuple(role for role, _ in self._turns)

    def render(self, *, question: str, demonstration: str, text: str) -> tuple[Message, ...]:
        """The turns with these values in them.

        Raises:
            ConfigError: the template fails on them, or asks for what the sandbox keeps from it.
        """
        values = {"question": question, "demonstration": demonstration, "text": text}
        try:
            return tuple(Message(role=role, content=turn(values)) for role, turn in self._turns)
        except TEMPLATE_FAULTS as error:
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> ConfigError:
        remedy = "use question, demonstration and text as variables, in valid Jinja"
        return ConfigError(self._key, self.label, f"cannot be rendered ({first_line(error)})", remedy)

    def _check_shown(self, context: TeacherContext) -> None:
        shown = ("question", *SHOWN[context])
        markers = {field: f"<{field}>" if field in shown else "" for field in ("question", "demonstration", "text")}
        contents = [turn.content for turn in self.render(**markers)]
        for field in shown:
            if not any(markers[field] in content for content in contents):
                remedy = f"write {{{{ {field} }}}} into the template, or choose another teacher.context"
                problem = f"does not show the {field}, though teacher.context={context.name}"
                raise ConfigError(self._key, self.label, problem, remedy)
        if not all(content.strip() for content in contents):
            problem = f"leaves a turn empty under teacher.context={context.name}"
            raise ConfigError(self._key, self.label, problem, "choose single_turn or another teacher.context")


def check_template(teacher: TeacherConfig, key: str) -> None:
    """Refuses a template under the name of the setting it comes from.

    Raises:
        ConfigError: as `TeacherTemplate`.
    """
    TeacherTemplate(teacher, key)


def template_label(template: str) -> str:
    """A template as a person recognises it: its name or path, or the beginning of its text, in one line."""
    line = " ".join(template.split())
    return line if not is_template(template) or len(line) <= LABEL_LENGTH else f"{line[:LABEL_LENGTH]}..."


def _read(template: str, key: str) -> Turns:
    if template in TEMPLATES:
        return TEMPLATES[template]
    if is_template(template):
        return (("user", template.strip()),)
    path = Path(template).expanduser()
    if not path.is_file():
        remedy = f"choose one of {', '.join(TEMPLATES)}, give the path of a Jinja file, or write the text itself"
        problem = "is no built-in template, no file, and no text with {{ question }} in it"
        raise ConfigError(key, template, problem, remedy)
    return (("user", read_text(key, path).strip()),)
