"""A run whose roles take turns, beside the one that holds all of them at once; and with the optimizer in host memory."""

from typing import Any

from tests.gpu_check.parts import Place
from tests.gpu_check.runs import rows


def measure(place: Place) -> dict[str, Any]:
    """All three. The wake check of every run holds each engine that woke against the learner."""
    return {"tables": {"": rows(place, "shared memory", "in turns", "in turns, offloaded")}}
