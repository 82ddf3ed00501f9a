"""Every setting as a typed, documented dataclass with its checks: one file a role, `RunConfig` holds them all.

Enums are named by member in YAML. Checks run once, when `OmegaConf.to_object` makes the dataclasses. A function
takes the part it needs, never `RunConfig`.
"""

from sdft_ray.config.adapter import AdapterConfig, AdapterKind, ExportConfig
from sdft_ray.config.alarms import AlarmsConfig
from sdft_ray.config.cluster import ClusterConfig, HardwareConfig, RolePlacement
from sdft_ray.config.data import DataConfig, ModelConfig, OnBadRow, TooLong
from sdft_ray.config.evaluation import (
    PRIOR,
    EvaluationConfig,
    EvaluationContext,
    EvaluationSetConfig,
    JudgeConfig,
    Match,
)
from sdft_ray.config.faults import FaultsConfig
from sdft_ray.config.harness import HarnessConfig, HarnessTask
from sdft_ray.config.learner import LearnerConfig, Precision, Saving, Schedule
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
from sdft_ray.config.mix import MixSourceConfig
from sdft_ray.config.pool import DemonstrationSource, PoolConfig, Retriever
from sdft_ray.config.rehearsal import RehearsalConfig
from sdft_ray.config.report import Figures, ReportConfig
from sdft_ray.config.rollout import RolloutConfig
from sdft_ray.config.run import AUTO, NEVER, Best, Mode, PlanConfig, RunConfig
from sdft_ray.config.show import Choice, ShowConfig
from sdft_ray.config.slurm import SlurmConfig
from sdft_ray.config.ssh import SshConfig
from sdft_ray.config.stages import StageBoundaryConfig
from sdft_ray.config.target import LifecycleConfig, Queue, Submission, TargetConfig, TargetKind, VolumeConfig
from sdft_ray.config.teacher import Payload, Tail, TeacherBackend, TeacherConfig, TeacherContext, TeacherWeights
from sdft_ray.config.teacher_check import CheckConfig
from sdft_ray.config.tracking import TrackingConfig, Wandb
from sdft_ray.config.weights import Channel, TeacherEma, WeightsConfig

__all__ = [
    "ShowConfig",
    "SlurmConfig",
    "SshConfig",
    "VolumeConfig",
    "TargetKind",
    "TargetConfig",
    "Submission",
    "Queue",
    "LifecycleConfig",
    "StageBoundaryConfig",
    "AdapterConfig",
    "AdapterKind",
    "AUTO",
    "NEVER",
    "OnBadRow",
    "PRIOR",
    "AlarmsConfig",
    "Best",
    "Channel",
    "CheckConfig",
    "Choice",
    "ClusterConfig",
    "CompletionSource",
    "DataConfig",
    "DemonstrationSource",
    "Divergence",
    "Estimator",
    "EvaluationConfig",
    "ExportConfig",
    "EvaluationContext",
    "EvaluationSetConfig",
    "FaultsConfig",
    "Figures",
    "HardwareConfig",
    "HarnessConfig",
    "HarnessTask",
    "JudgeConfig",
    "LearnerConfig",
    "LossConfig",
    "Match",
    "MethodConfig",
    "MismatchCorrection",
    "MixSourceConfig",
    "Mode",
    "ModelConfig",
    "Normalization",
    "PlanConfig",
    "Payload",
    "PoolConfig",
    "Precision",
    "RehearsalConfig",
    "ReportConfig",
    "Retriever",
    "RolePlacement",
    "RolloutConfig",
    "RunConfig",
    "Saving",
    "Schedule",
    "Tail",
    "Target",
    "TeacherBackend",
    "TeacherConfig",
    "TeacherContext",
    "TeacherEma",
    "TeacherWeights",
    "TooLong",
    "TrackingConfig",
    "Wandb",
    "WeightsConfig",
]
