"""Which settings there are, by their full keys, and the one nearest to a key that is none.

OmegaConf takes any key into a dataclass once it is added with a plus sign, and drops it without a word when it makes
the dataclass. Composed settings are therefore held against the dataclasses themselves.
"""

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from difflib import SequenceMatcher
from typing import Any, get_args, get_origin, get_type_hints

from sdft_ray.errors import ConfigError

LIKE = 0.5  # share of a name from which on another is taken for what was meant


def setting_keys(kind: type, prefix: str = "") -> Iterator[str]:
    """The full keys of all settings of a dataclass, sections included."""
    for name, hint in get_type_hints(kind).items():
        yield prefix + name
        if is_dataclass(hint):
            yield from setting_keys(hint, f"{prefix}{name}.")  # type: ignore[arg-type]


def check_key(key: str, value: object, kind: type, prefix: str = "") -> None:
    """Refuses a full key that `kind` has no setting for; below a dict, every key is one.

    Args:
        key: dotted, without `prefix`.
        value: what it was set to, for the message.
        kind: the dataclass of the settings.
        prefix: where the dataclass stands, with a dot at its end.

    Raises:
        ConfigError: names the nearest setting there is.
    """
    at: Any = kind
    known = ""
    for name in key.split("."):
        if _is_open(at):
            return
        hints = get_type_hints(at) if is_dataclass(at) else {}
        known += name
        if name not in hints:
            nearest = nearest_key(known, kind) if hints else known.rpartition(".")[0]
            remedy = f"the nearest is {prefix}{nearest}" if nearest else "docs/settings.md and sdft --help list all"
            raise ConfigError(f"{prefix}{key}", value, "there is no such setting", remedy)
        at = hints[name]
        known += "."


def check_keys(settings: Mapping[str, Any], kind: type, prefix: str = "") -> None:
    """Refuses the first key in nested settings that `kind` has no setting for.

    Raises:
        ConfigError: names the nearest setting there is.
    """
    for key, value in _leaves(settings):
        check_key(key, value, kind, prefix)


def nearest_key(key: str, kind: type) -> str:
    """The setting whose name, and then whose section, is most like those of `key`; "" where no name is like it.

    Initials count as a name.
    """
    section, _, name = key.rpartition(".")

    def of_name(known: str) -> float:
        known_name = known.rpartition(".")[2]
        initials = "".join(part[:1] for part in known_name.split("_"))
        return 0.9 if name == initials else _ratio(name, known_name)

    def likeness(known: str) -> float:
        return 0.8 * of_name(known) + 0.2 * _ratio(section, known.rpartition(".")[0])

    nearest = max(setting_keys(kind), key=likeness)
    return nearest if of_name(nearest) >= LIKE else ""


def _is_open(hint: Any) -> bool:
    """True when a setting of this type takes keys of the user's choice."""
    return hint is Any or any(get_origin(part) is dict for part in (hint, *get_args(hint)))


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()
