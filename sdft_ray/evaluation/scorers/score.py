"""What a completion is held against, and what comes of it."""

from typing import NamedTuple


class Gold(NamedTuple):
    """What a right completion says."""

    answer: str
    acceptable: str = ""  # JSON, of tool calls only


class Score(NamedTuple):
    """Whether a completion is right, and what was read from it, so that a person can see why."""

    right: bool | None  # None where nobody could tell: the item is unscored
    extracted: str  # "" where nothing could be read
    lenient: bool | None = None  # whether it is right by the milder rule; None where the kind has none
