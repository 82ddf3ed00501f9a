"""Every setting as a typed, documented dataclass with its checks: one file a role, `RunConfig` holds them all.

Enums are named by member in YAML. Checks run once, when `OmegaConf.to_object` makes the dataclasses. A function
takes the part it needs, never `RunConfig`.
"""

from sdft_ray.config.cluster import ClusterConfig, RolePlacement
from sdft_ray.config.data import DataConfig, EvaluationConfig, Match, ModelConfig, TooLong
from sdft_ray.config.learner import LearnerConfig, Precision, Schedule
from sdft_ray.config.method import (
    CompletionSource,
    Divergence,
    Estimator,
    LossConfig,
    MethodConfig,
    MismatchCorrection,
    Normalization,
    Target,
)
from sdft_ray.config.rollout import RolloutConfig
from sdft_ray.config.run import RunConfig, TrackingConfig, Wandb
from sdft_ray.config.teacher import TeacherConfig, TeacherContext, TeacherWeights

__all__ = [
    "ClusterConfig",
    "CompletionSource",
    "DataConfig",
    "Divergence",
    "Estimator",
    "EvaluationConfig",
    "LearnerConfig",
    "LossConfig",
    "Match",
    "MethodConfig",
    "MismatchCorrection",
    "ModelConfig",
    "Normalization",
    "Precision",
    "RolePlacement",
    "RolloutConfig",
    "RunConfig",
    "Schedule",
    "Target",
    "TeacherConfig",
    "TeacherContext",
    "TeacherWeights",
    "TooLong",
    "TrackingConfig",
    "Wandb",
]
