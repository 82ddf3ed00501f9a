"""When a worker counts as hung: the deadline of every call, scaled from what the calls of its kind have taken.

The clock of a call runs while its worker is silent. It begins anew with every answer of that worker, so calls that
wait behind others in a queue that moves are never late. A worker may be busy with any of its open calls, so the
longest of their limits holds for all of them. The limit of a call is

    max(faults.hang_s, FACTOR * usual * amount * crowd)

where `usual` is the longest silence that a call of its kind has met so far, over that call's amount of work (tokens,
or 1). `crowd` is the number of open calls of its worker over the largest number seen with an answer: a batch of ten
may take ten times as long as one. The first call of a kind on each worker may compile; it has `faults.first_call_s`,
and `FIRST_TOKEN_S` for each token, and teaches nothing. Storage stalls for minutes without being lost: the first call
that reads or writes certain files has `faults.files_s`, later ones `faults.first_call_s` at least. Starting has
`faults.start_s`.
"""

from enum import Enum, auto
from typing import NamedTuple

from sdft_ray.config import FaultsConfig

FACTOR = 5.0
FIRST_TOKEN_S = 0.2  # a large model on a CPU writes five tokens a second
READ_TOKENS = 16  # tokens that are read in parallel count as much as one that is written


class Pace(Enum):
    """What the deadline of a call depends on."""

    COMPUTE = auto()  # what was usual; the first on a worker has `faults.first_call_s`
    STORAGE = auto()  # the first on a worker has `faults.files_s`, and later ones never less than `first_call_s`
    START = auto()  # `faults.start_s`


class Work(NamedTuple):
    """What a call asks of a worker."""

    kind: str  # calls of one kind tell the usual time of the others
    amount: float = 1.0  # tokens, or 1
    pace: Pace = Pace.COMPUTE
    most_s: float = float("inf")  # a limit of the user's own
    in_turn: bool = True  # whether it needs what a worker puts away while another role has the device


def written(num_read: int, num_written: int) -> float:
    """The amount of work in reading a prompt and writing a completion [written tokens]."""
    return num_read / READ_TOKENS + num_written


class _Usual(NamedTuple):
    """What the calls of a kind have met."""

    silence_s: float = 0.0  # the longest, for an amount of 1
    num_open: int = 1  # the most open calls of a worker that has answered


class Deadlines:
    """Learns what is usual in the workers of one role."""

    def __init__(self, faults: FaultsConfig):
        self._faults = faults
        self._usual: dict[str, _Usual] = {}

    def limit_s(self, work: Work, *, is_first: bool, num_open: int) -> float:
        """The silence after which a call is late [s].

        Args:
            work: that was asked for.
            is_first: whether its worker had answered no call of this kind when it was made.
            num_open: calls that its worker has not answered, this one among them.
        """
        faults = self._faults
        match work.pace, is_first:
            case Pace.START, _:
                return min(faults.start_s, work.most_s)
            case Pace.STORAGE, True:
                least_s = faults.files_s
            case Pace.STORAGE, False:
                least_s = faults.first_call_s
            case _, True:
                least_s = faults.first_call_s + FIRST_TOKEN_S * (work.amount - 1)
            case _:
                least_s = faults.hang_s
        usual = self._usual.get(work.kind, _Usual())
        crowd = max(1.0, num_open / usual.num_open)
        return min(work.most_s, max(least_s, FACTOR * usual.silence_s * work.amount * crowd))

    def learn(self, work: Work, silence_s: float, num_open: int) -> None:
        """Takes an answer into account that came after a silence, with `num_open` calls open."""
        usual = self._usual.get(work.kind, _Usual())
        self._usual[work.kind] = _Usual(
            max(usual.silence_s, silence_s / max(work.amount, 1.0)), max(usual.num_open, num_open)
        )
