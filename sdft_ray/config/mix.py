"""Settings of a mix of several sources."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdft_ray.config.keys import check_keys
from sdft_ray.config.validation import at_least, require
from sdft_ray.errors import ConfigError


@dataclass(kw_only=True)
class MixSourceConfig:
    """One source of a mix: `data.mix.NAME` is one of these, or its source alone."""

    source: str = ""  # as data.source
    weight: float = 1.0  # examples of it for every one of a source of weight 1
    split: str = "train"  # as data.split
    config_name: str = ""  # as data.config_name
    revision: str = ""  # as data.revision
    filter: dict[str, Any] = field(default_factory=dict)  # as data.filter
    num_examples: int = 0  # as data.num_examples
    columns: dict[str, str] | None = None  # our key -> the source's column; null takes data.columns

    def check(self, key: str) -> None:
        """Refuses values that cannot be used; `key` is where the source stands."""
        require(bool(self.source), f"{key}.source", "''", "names no data", "set it to a file, a folder or a hub name")
        require(
            0 < self.weight < math.inf,
            f"{key}.weight",
            self.weight,
            "must be a positive number",
            f"set {key}.weight=1, or leave the source out with ~{key}",
        )
        at_least(0, f"{key}.num_examples", self.num_examples)


def mix_source(key: str, value: Any) -> MixSourceConfig:
    """A source of a mix, complete and checked, from what was written at `key`: its name, or its settings.

    Raises:
        ConfigError: it is neither, or a setting of it cannot be used.
    """
    given = {"source": value} if isinstance(value, str) else value
    known = ", ".join(known.name for known in fields(MixSourceConfig))
    if not isinstance(given, Mapping):
        raise ConfigError(key, value, "is neither a source nor settings of one", f"use {known}")
    check_keys(given, MixSourceConfig, f"{key}.")
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(MixSourceConfig), given))
    except OmegaConfBaseException as error:
        problem = str(error).splitlines()[0]
        raise ConfigError(key, dict(given), problem, f"the settings of a source are {known}") from error
    assert isinstance(settings, MixSourceConfig)
    settings.check(key)
    return settings
