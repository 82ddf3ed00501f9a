"""What strikes a run, and in which order: a schedule that one seed decides.

A strike hits one process of one role at one moment. A leg is what one driver process lives through; how it ends is a
fault as well, and the next leg resumes it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

ROLLOUT, TEACHER, LEARNER, ENGINE = (
    "rollout",
    "teacher",
    "learner",
    "engine",
)  # an engine is a child of a rollout worker
KILL, STOP, NODE, FULL_DISK, DAMAGE, DASHBOARD = "kill", "stop", "node gone", "full disk", "damage", "dashboard killed"
CUT = "network cut"
GENERATING, SCORING, LOADING, ACCUMULATING, SAVING, IDLE = (
    "complete",
    "score",
    "load weights",
    "accumulate",
    "save",
    "idle",
)
BETWEEN, BEREFT = "between", "bereft"  # two steps; while no rollout worker is there, so that the others wait long
SIGTERM, SIGKILL, SIGKILL_DAMAGE, END = "SIGTERM", "SIGKILL", "SIGKILL, checkpoint damaged", "the run's end"


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault of a running leg."""

    act: str
    role: str = ""  # "" where it is none of a role's processes
    moment: str = BETWEEN  # the kind of call that is open on the worker, or that it has nothing to do

    @property
    def name(self) -> str:
        """As people read it."""
        return " ".join(filter(None, [self.act, self.role, self.moment]))


@dataclass(frozen=True, slots=True)
class Leg:
    """What one driver lives through."""

    strikes: tuple[Strike, ...]
    end: str


STRIKES = (
    Strike(KILL, ROLLOUT, GENERATING),
    Strike(KILL, ROLLOUT, LOADING),
    Strike(KILL, ROLLOUT, IDLE),
    Strike(STOP, ROLLOUT, GENERATING),
    Strike(KILL, ENGINE, GENERATING),
    Strike(KILL, ENGINE, LOADING),
    Strike(STOP, ENGINE, GENERATING),
    Strike(KILL, TEACHER, SCORING),
    Strike(KILL, TEACHER, LOADING),
    Strike(KILL, TEACHER, IDLE),
    Strike(STOP, TEACHER, SCORING),
    Strike(STOP, TEACHER, BEREFT),
    Strike(KILL, LEARNER, ACCUMULATING),
    Strike(KILL, LEARNER, SAVING),
    Strike(KILL, LEARNER, IDLE),
    Strike(KILL, LEARNER, BEREFT),
    Strike(STOP, LEARNER, ACCUMULATING),
    Strike(STOP, LEARNER, BEREFT),
    Strike(DAMAGE, LEARNER),
    Strike(NODE),
    Strike(FULL_DISK),
    Strike(DASHBOARD),
    Strike(CUT),
)
ENDS = (SIGTERM, SIGKILL, SIGKILL_DAMAGE)
SHORT = (
    Strike(KILL, ROLLOUT, GENERATING),
    Strike(STOP, TEACHER, SCORING),
    Strike(KILL, LEARNER, ACCUMULATING),
    Strike(DAMAGE, LEARNER),
)


def make_schedule(seed: int, *, short: bool, has_cable: bool = True) -> list[Leg]:
    """Every strike once, in an order of the seed, over as many legs as there are ends, and one that ends by itself.

    Args:
        seed: decides the order.
        short: takes the strikes of `SHORT` alone.
        has_cable: whether a network can be cut.
    """
    chance = random.Random(seed)
    ends = [SIGTERM] if short else list(ENDS)
    strikes = [strike for strike in (SHORT if short else STRIKES) if has_cable or strike.act != CUT]
    chance.shuffle(strikes)
    chance.shuffle(ends)
    ends.append(END)
    return [Leg(tuple(part), end) for part, end in zip(_cut(strikes, len(ends)), ends, strict=True)]


def num_faults(legs: Sequence[Leg]) -> int:
    """Strikes, the two of a bereft one, and ends that are none of the run's own."""
    strikes = [strike for leg in legs for strike in leg.strikes]
    return len(strikes) + sum(strike.moment == BEREFT for strike in strikes) + sum(leg.end != END for leg in legs)


def _cut(strikes: Sequence[Strike], number: int) -> list[Sequence[Strike]]:
    return [strikes[index::number] for index in range(number)]
