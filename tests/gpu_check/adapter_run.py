"""Runs that train an adapter, beside the one that trains all weights."""

from typing import Any

from tests.gpu_check.parts import Place
from tests.gpu_check.runs import rows


def measure(place: Place) -> dict[str, Any]:
    """What is published has to be less; memory is a figure."""
    found = rows(place, "shared memory", "an adapter", "an adapter, in turns")
    whole, *adapted = found
    assert all(row["published_mib"] < whole["published_mib"] for row in adapted), "an adapter publishes all weights"
    return {"tables": {"": found}}
