"""What a setting takes, in words, for values that OmegaConf cannot convert to the setting's type."""

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from sdft_ray.config import RunConfig
from sdft_ray.errors import ConfigError

_TEXT = "write {key}='' for none, and quote a text that reads like another type: {key}=\\'{value}\\'"
_WORDS: dict[Any, tuple[str, str]] = {
    int: ("is no whole number", "write digits, such as {key}=8"),
    float: ("is no number", "write one such as {key}=1e-5"),
    bool: ("is neither true nor false", "write {key}=true or {key}=false"),
    str: ("is no text", _TEXT),
    list: ("is no list", "write {key}='[{value}]', with both quotation marks where it holds any sign but letters"),
    dict: ("is no mapping", "write its entries with a plus sign, such as +{key}.NAME=VALUE"),
}


def check_text(key: str, value: object) -> None:
    """Refuses true, false and null for a setting that is a text, which OmegaConf would make a word of.

    Raises:
        ConfigError: says how to write none.
    """
    kinds = set(_kinds(key))
    if str in kinds and (isinstance(value, bool) or value is None) and not {bool, NoneType} & kinds:
        raise wrong_value(key, "null" if value is None else str(value).lower())


def wrong_value(key: str, value: str) -> ConfigError:
    """What to raise where the setting `key` does not take `value`, for `knows(key)`."""
    kinds = list(_kinds(key))
    if value == "null" and NoneType not in kinds and str not in kinds:
        return ConfigError(key, value, "must have a value", "leave it out for its default, which docs/settings.md has")
    kind = next((kind for kind in kinds if kind is not NoneType), str)
    if isinstance(kind, type) and issubclass(kind, Enum):
        names = [member.name for member in kind]
        meant = meant_of(value.upper(), names)
        chosen = f"{meant}it takes " if meant else "take one of "
        return ConfigError(key, value, "is no choice", chosen + ", ".join(names))
    if is_dataclass(kind):
        return ConfigError(key, value, "is a section of settings, not one", f"set a key of it: {key}.NAME=VALUE")
    problem, remedy = _WORDS[get_origin(kind) or kind]
    return ConfigError(key, value, problem, remedy.format(key=key, value=value))


def meant_of(name: str, names: Sequence[str]) -> str:
    """The beginning of a remedy: which of `names` is most like `name`; "" where none is."""
    near = get_close_matches(name, names, 1)
    return f"{near[0]} is meant, perhaps; " if near else ""


def knows(key: str) -> bool:
    """True when the setting has a type that this module has words for."""
    return any(isinstance(kind, type) or get_origin(kind) in _WORDS for kind in _kinds(key))


def _kinds(key: str) -> Iterator[Any]:
    """The types that a setting takes; none for a key of the user's choice."""
    at: Any = RunConfig
    for name in key.split("."):
        if not is_dataclass(at) or name not in (hints := get_type_hints(at)):
            return
        at = hints[name]
    yield from get_args(at) if NoneType in get_args(at) else (at,)
