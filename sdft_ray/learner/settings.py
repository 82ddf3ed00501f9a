"""What a rank is told; a module of its own, since the driver makes it and must not load DeepSpeed with the rank."""

from dataclasses import dataclass

from sdft_ray.config import LearnerConfig, LossConfig, ModelConfig, StageBoundaryConfig, Target, TeacherConfig
from sdft_ray.examples import GuardRow
from sdft_ray.learner.schedule import StagePlan
from sdft_ray.weights.plan import WeightPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerSettings:
    """The settings a rank needs, and no more."""

    model_path: str
    model: ModelConfig
    learner: LearnerConfig
    loss: LossConfig
    target: Target
    teacher: TeacherConfig
    teacher_path: str  # where a frozen teacher's weights lie
    max_staleness: int
    temperature: float
    num_tokens: int  # vocabulary rows that count; the rest is padding
    plan: StagePlan
    stage_boundary: StageBoundaryConfig
    weights: WeightPlan
    guard_rows: tuple[GuardRow, ...]  # what the packing of sequences is checked on
    max_len: int  # tokens of the longest prompt with its completion
    seed: int
    device: str  # "cpu" or "cuda"
