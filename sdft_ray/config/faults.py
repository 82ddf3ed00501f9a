"""Settings of what a run does when it is ended, or when a part of it fails."""

from dataclasses import dataclass

from sdft_ray.config.validation import at_least, positive


@dataclass(kw_only=True)
class FaultsConfig:
    """How a run ends that a scheduler ends, and what it survives."""

    grace_s: float = 60.0  # seconds a step may go on after SIGTERM, so that a checkpoint follows it; 0 ends at once
    hang_s: float = 60.0  # seconds of silence with work open after which a worker is hung; 5 times the usual if more
    first_call_s: float = 600.0  # the same for a worker's first call of a kind, which may compile
    files_s: float = (
        7200.0  # the same for a learner's first checkpoint or export; later ones have first_call_s at least
    )
    start_s: float = 1800.0  # seconds for a worker to start, which reads the model
    max_restarts: int = 20  # rollout and teacher workers started anew within an hour; 0 replaces none
    max_wait_s: float = 1800.0  # seconds without any worker of a role after which the run stops
    learner_restarts: int = 3  # times a run builds its learner anew from the newest checkpoint; 0 stops it instead

    max_failed_saves: int = 3  # checkpoints in a row that may fail to be written before the run stops

    def __post_init__(self) -> None:
        at_least(1, "faults.max_failed_saves", self.max_failed_saves)
        at_least(0, "faults.grace_s", self.grace_s)
        positive("faults.hang_s", self.hang_s)
        positive("faults.first_call_s", self.first_call_s)
        positive("faults.files_s", self.files_s)
        positive("faults.start_s", self.start_s)
        at_least(0, "faults.max_restarts", self.max_restarts)
        positive("faults.max_wait_s", self.max_wait_s)
        at_least(0, "faults.learner_restarts", self.learner_restarts)
