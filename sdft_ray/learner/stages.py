"""The learning rate and the stage of a step: functions of the step alone, so resuming needs no state."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sdft_ray.config import LearnerConfig, Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerStage:
    """What one stage asks of the learner."""

    num_steps: int
    batch_size: int
    skip_first_tokens: int
    learner: LearnerConfig  # its learning rate, schedule and warm-up are the stage's own


class StagePlan:
    """The stages of a run, one after the other; most runs have one."""

    def __init__(self, stages: Sequence[LearnerStage]):
        self._stages = tuple(stages)

    @property
    def num_steps(self) -> int:
        """Of all stages together."""
        return sum(stage.num_steps for stage in self._stages)

    def at(self, version: int) -> LearnerStage:
        """The stage of the step that weights of `version` take."""
        return self._locate(version)[0]

    def learning_rate(self, version: int) -> float:
        """The rate of the step that weights of `version` take: each stage has a schedule of its own."""
        stage, step = self._locate(version)
        return learning_rate(stage.learner, step, stage.num_steps)

    def is_border(self, version: int) -> bool:
        """Whether one stage ends with `version` and another begins."""
        return 0 < version < self.num_steps and self._locate(version)[1] == 0

    def _locate(self, version: int) -> tuple[LearnerStage, int]:
        step = version
        for stage in self._stages:
            if step < stage.num_steps:
                return stage, step
            step -= stage.num_steps
        return self._stages[-1], self._stages[-1].num_steps + step


def learning_rate(cfg: LearnerConfig, step: int, num_steps: int) -> float:
    """The rate of step `step` (from 0) of `num_steps`: a function of the step alone, so resuming needs no state.

    Linear warm-up reaches the full rate with step `warmup_steps`; COSINE then falls to 0 after the last step.
    """
    if step < cfg.warmup_steps:
        return cfg.learning_rate * (step + 1) / (cfg.warmup_steps + 1)
    if cfg.schedule is Schedule.CONSTANT:
        return cfg.learning_rate
    progress = (step - cfg.warmup_steps) / max(1, num_steps - cfg.warmup_steps)
    return cfg.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
