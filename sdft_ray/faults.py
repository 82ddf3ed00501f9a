"""What has become of the parts of a run while it went on, losses above all: one record, whatever it was.

The driver tells every event by it: in the log, in faults.jsonl, in the metrics and so in wandb, and in the report.
"""

from dataclasses import dataclass
from enum import Enum


class FaultKind(Enum):
    """What happened, and the metric that counts it."""

    LOST = "lost", "faults/lost_workers"  # a worker, or the engine in it, has died
    HUNG = "hung", "faults/hung_workers"  # it was killed since it did not answer
    REPLACED = "replaced", "faults/replaced_workers"  # a new worker serves in its place, `seconds` after the loss
    START_FAILED = "start failed", "faults/failed_starts"  # of a worker that was to replace it
    GIVEN_UP = "given up", "faults/given_up_workers"  # the budget of restarts is spent
    JOINED = (
        "joined",
        "faults/joined_workers",
    )  # a worker serves where there was none, `seconds` after its place was there
    LEFT = "left", "faults/left_workers"  # it answered what was open and went, `seconds` after it was asked to
    RESCORED = "rescored", "faults/rescored_samples"  # `count` samples whose payload was lost
    RESTORED = "restored", "faults/learner_restarts"  # the learner, from a checkpoint, `seconds` after the loss
    DROPPED = "dropped", "faults/dropped_samples"  # `count` samples, of weights that no longer exist

    def __init__(self, word: str, metric: str):
        self.word = word
        self.metric = metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One event."""

    kind: FaultKind
    role: str
    rank: int  # of the worker; -1 where it is the whole role
    node: str  # its address, "" where it is not known
    text: str  # what a person reads: what happened, and why
    count: int = 1
    seconds: float = 0.0
