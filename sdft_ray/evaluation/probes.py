"""What an evaluation measures besides answers, and asks the same workers for."""

from typing import Protocol


class Probe(Protocol):
    """One measurement of the student."""

    async def measure(self, version: int) -> dict[str, float]:
        """Metrics of the student's weights of `version`, which the workers hold by now."""
        ...
