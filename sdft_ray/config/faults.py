"""Settings of what a run does when it is ended, or when a part of it fails."""

from dataclasses import dataclass

from sdft_ray.config.validation import at_least


@dataclass(kw_only=True)
class FaultsConfig:
    """How a run ends that a scheduler ends."""

    grace_s: float = 60.0  # seconds a step may go on after SIGTERM, so that a checkpoint follows it; 0 ends at once

    max_failed_saves: int = 3  # checkpoints in a row that may fail to be written before the run stops

    def __post_init__(self) -> None:
        at_least(1, "faults.max_failed_saves", self.max_failed_saves)
        at_least(0, "faults.grace_s", self.grace_s)
