"""Every setting with type, default and meaning, as the dataclasses of this package tell them.

The meaning of a setting is the comment behind its field, that of an enum's member the comment behind the member: each
stands in one place, beside the default. `python -m sdft_ray.config.reference` prints them as a page, which is kept in
docs/settings.md.
"""

import ast
import dataclasses
import inspect
import io
import tokenize
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple

from sdft_ray.config.run import RunConfig


class Setting(NamedTuple):
    """One setting as a person reads it."""

    key: str  # such as learner.zero_stage
    kind: str  # of its values: int, float, a list of an enum's members ...
    default: str  # as one would write it on the command line; "" where there is none
    meaning: str  # the comment behind the field


class Section(NamedTuple):
    """A dataclass of settings."""

    prefix: str  # such as "learner"; "" for those of the run as a whole
    purpose: str  # the first line of its docstring
    settings: tuple[Setting, ...]


def sections(kind: type = RunConfig, prefix: str = "") -> Iterator[Section]:
    """The settings of a dataclass, and below it those of the dataclasses in its fields, in the order of the fields."""
    hints = typing.get_type_hints(kind)
    meanings = meanings_of(kind)
    settings, below = [], []
    for field in dataclasses.fields(kind):
        key = f"{prefix}.{field.name}" if prefix else field.name
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            below.append((hint, key))
        else:
            meaning = [meanings.get(field.name, ""), *_members(hint)]
            settings.append(Setting(key, _kind(hint), _default(field), "; ".join(filter(None, meaning))))
    yield Section(prefix, (inspect.getdoc(kind) or "").partition("\n")[0], tuple(settings))
    for hint, key in below:
        yield from sections(typing.cast(type, hint), key)


def page() -> str:
    """All settings as a Markdown page."""
    lines = [
        "# Settings",
        "",
        "Every setting of a run, as `sdft_ray/config/` declares it. It is given as `key=value`; a misspelt key is",
        "refused. `python -m sdft_ray.config.reference > docs/settings.md` makes this page anew.",
    ]
    for section in sections():
        lines += ["", f"## {section.prefix or 'The run'}", "", section.purpose]
        lines += ["", "| setting | values | default | |", "|---|---|---|---|"] if section.settings else []
        lines += [
            f"| `{setting.key}` | {_cell(setting.kind)} | {_code(setting.default)} | {_cell(setting.meaning)} |"
            for setting in section.settings
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that a table's row can hold."""
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _members(hint: Any) -> list[str]:
    if not (isinstance(hint, type) and issubclass(hint, Enum)):
        return []
    return [f"{name}: {meaning}" for name, meaning in meanings_of(hint).items() if meaning]


def _kind(hint: Any) -> str:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " | ".join(member.name for member in hint)
    if typing.get_origin(hint) is None:
        return str(getattr(hint, "__name__", hint))
    return str(hint).replace("typing.", "").replace("sdft_ray.config.", "")


def _default(field: "dataclasses.Field[Any]") -> str:
    factory = field.default_factory
    value = field.default if factory is dataclasses.MISSING else factory()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is dataclasses.MISSING or value == "???" else str(value)


def meanings_of(kind: type) -> dict[str, str]:
    """The comments within and behind each field of a dataclass, or member of an enum; "" where there is none."""
    source = inspect.getsource(kind)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for node in definition.body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            found[target.id] = " ".join(comments[line] for line in lines if line in comments)
    return found


if __name__ == "__main__":
    print(page(), end="")
