"""Weight plans of settings that a test makes by hand."""

from typing import Any

from sdft_ray.config import (
    Channel,
    ClusterConfig,
    ModelConfig,
    Precision,
    RolePlacement,
    RunConfig,
    TeacherConfig,
    TeacherEma,
    TeacherWeights,
    WeightsConfig,
)
from sdft_ray.weights.plan import WeightPlan, plan_weights


def make_plan(
    channel: Channel = Channel.OBJECT_STORE,
    *,
    num_nodes: int = 1,
    num_ranks: int = 1,
    teacher_ema: TeacherEma = TeacherEma.LEARNER,
    **settings: Any,
) -> WeightPlan:
    """The plan of a run on CPUs with these settings, its workers in fp32 unless `model` says otherwise."""
    defaults = {
        "model": ModelConfig(path="model", dtype=Precision.FLOAT32),
        "cluster": ClusterConfig(learner=RolePlacement(num_workers=num_ranks)),
        "weights": WeightsConfig(channel=channel, teacher_ema=teacher_ema),
    }
    return plan_weights(RunConfig(**defaults | settings), num_nodes)


def live_plan() -> WeightPlan:
    """Of teachers that copy the student's own weights."""
    return make_plan(teacher=TeacherConfig(weights=TeacherWeights.LIVE))
