"""What is wrong with an object. A module of its own: every check makes them, and none knows another."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that an object breaks."""

    where: str  # the object and the path in it: RayJob/spec/backoffLimit
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"
