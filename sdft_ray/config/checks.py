"""The checks settings share: each failure names the key, the value and the remedy."""

import math

from sdft_ray.errors import ConfigError


def require(condition: bool, key: str, value: object, problem: str, remedy: str) -> None:
    """Raises `ConfigError` unless `condition` holds."""
    if not condition:
        raise ConfigError(key, value, problem, remedy)


def at_least(minimum: float, key: str, value: float) -> None:
    """Refuses a number below `minimum` (or NaN)."""
    require(value >= minimum, key, value, f"must be at least {minimum}", f"set {key}={minimum} or more")


def positive(key: str, value: float) -> None:
    """Refuses zero, negative and non-finite numbers."""
    require(0 < value < math.inf, key, value, "must be a positive number", f"set {key} to a value above 0")


def share(key: str, value: float) -> None:
    """Refuses what is not a share of a whole."""
    require(0 <= value <= 1, key, value, "must lie in [0, 1]", f"set {key} between 0 and 1")
