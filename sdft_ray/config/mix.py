"""Settings of a mix of several sources."""

import math
from dataclasses import dataclass, field
from typing import Any

from sdft_ray.config.named_sources import named_source
from sdft_ray.config.validation import at_least, require


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
    settings = named_source(key, value, MixSourceConfig(), entry="a source", settings_of="one")
    settings.check(key)
    return settings
