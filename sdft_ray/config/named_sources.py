"""Entries that are a source alone, or the settings of one: those of `evaluation.sets` and of `data.mix`.

A module of its own, since sets and mixes know nothing of one another. OmegaConf has no field that is either a string or
a dataclass, so both keep what was written, and have it read here.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdft_ray.config.keys import check_keys
from sdft_ray.errors import ConfigError

T = TypeVar("T")


def named_source(key: str, value: Any, defaults: T, *, entry: str, settings_of: str) -> T:
    """The settings of one entry, complete and of the right types; their ranges are the caller's to check.

    Args:
        key: where the entry was written.
        value: what was written: a source, or settings, `source` among them.
        defaults: an instance of the settings' dataclass, whose values hold where nothing is written.
        entry: what messages call an entry: "a set".
        settings_of: whose settings a message says it could have been, such as "a set" or "one".

    Raises:
        ConfigError: it is neither, or a setting of it is none, or has another type.
    """
    kind = type(defaults)
    given = {"source": value} if isinstance(value, str) else value
    known = ", ".join(known.name for known in fields(kind))  # type: ignore[arg-type]
    if not isinstance(given, Mapping):
        raise ConfigError(key, value, f"is neither a source nor settings of {settings_of}", f"use {known}")
    check_keys(given, kind, f"{key}.")
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(defaults), given))
    except OmegaConfBaseException as error:
        problem = str(error).splitlines()[0]
        raise ConfigError(key, dict(given), problem, f"the settings of {entry} are {known}") from error
    assert isinstance(settings, kind)
    return settings
