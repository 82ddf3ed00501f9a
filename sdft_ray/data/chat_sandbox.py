"""The environment that chat templates are written for, transformers' own, on the budget of `sandbox.py`.

A template renders here what `apply_chat_template` renders (tests/data/test_chat.py holds them against each other), or
it is refused: that one has no bound on the work of a rendering.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.defaults import DEFAULT_NAMESPACE
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sdft_ray.data.sandbox import BoundedSandbox, checked_size, size_of, spend

EXTENSIONS = ("jinja2.ext.loopcontrols",)
ALLOWANCE = 100  # of the budget, for each character and item of a conversation: long ones take longer
_GENERATION = re.compile(r"{%([-+]?)\s*(end)?generation\s*([-+]?)%}")  # marks of transformers, which plain Jinja lacks
_NUMBER = re.compile(r"\d+")
_WIDTH_FROM_VALUE = re.compile(r"\*|{[^}]*{")


def plain_jinja(source: str) -> str:
    """A chat template without the marks that transformers adds to Jinja; what stands between them stays."""
    return _GENERATION.sub(lambda found: f"{{%{found[1]} {'endif' if found[2] else 'if true'} {found[3]}%}}", source)


@lru_cache(maxsize=8)
def compiled_chat(source: str) -> Callable[[Mapping[str, Any]], str]:
    """What renders a chat template with values.

    Raises:
        jinja2.TemplateError: it is no template; when it renders, as `BoundedSandbox.compile_turn`.
    """
    return ChatSandbox().compile_turn(plain_jinja(source))


class ChatSandbox(BoundedSandbox):
    """The names, filters and blanks of transformers' environment; undefined names print nothing."""

    def __init__(self) -> None:
        super().__init__(
            undefined=jinja2.Undefined, trim_blocks=True, lstrip_blocks=True, extensions=EXTENSIONS, allowance=ALLOWANCE
        )
        self.globals |= {name: DEFAULT_NAMESPACE[name] for name in ("cycler", "joiner")}
        self.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
        self.add_filter("tojson", _tojson)
        self.add_filter("format", self._format)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """As its base, which lets no text be formatted; here a format pays for what it may make."""
        if operator == "%" and isinstance(left, str):
            spend(context, _formatted_size(left, right))
            return left % right
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """As its base, with the methods that format a text."""
        if isinstance(text := getattr(obj, "formats", None), str):
            spend(context, _formatted_size(text, [*args, *kwargs.values()]))
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        """Jinja's own for a method that formats a text, and the text at it; None for any other value."""
        wrapped = ImmutableSandboxedEnvironment.wrap_str_format(self, value)
        if wrapped is not None:
            wrapped.formats = value.__self__  # type: ignore[attr-defined]
        return wrapped

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A method before the field of that name, as everywhere else where this template is rendered."""
        return ImmutableSandboxedEnvironment.getattr(self, obj, attribute)

    @staticmethod
    @jinja2.pass_context
    def _format(context: Context, text: Any, *args: Any, **kwargs: Any) -> str:
        spend(context, _formatted_size(str(text), [*args, *kwargs.values()]))
        return str(text) % (kwargs or args)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own escapes what HTML reads."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _formatted_size(text: str, values: Any) -> int:
    """At most how many characters `text` has once it is formatted.

    Raises:
        jinja2.sandbox.SecurityError: too many, or a value would say how many.
    """
    if _WIDTH_FROM_VALUE.search(text):
        raise jinja2.sandbox.SecurityError("a format takes its width from a value; write it into the format")
    width = max((int(number[:9]) for number in _NUMBER.findall(text)), default=0)
    widest = width + size_of(values if isinstance(values, list | tuple | dict | str) else [values])
    return checked_size("format", len(text) + (text.count("%") + text.count("{")) * widest)
