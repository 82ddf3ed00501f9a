"""Settings of what happens where one stage of a run ends and the next begins."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class StageBoundaryConfig:
    """What begins anew at the boundary between two stages; by default all that a new run would begin with."""

    reset_optimizer: bool = True  # Adam's moments; the learning rate's schedule is always the stage's own
    rebase_teacher: bool = True  # an EMA teacher becomes the student as it is there
