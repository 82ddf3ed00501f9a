"""Settings of how new weights travel from the learner to the rollout and teacher workers."""

from dataclasses import dataclass
from enum import Enum, auto

from sdft_ray.config.checks import positive, require
from sdft_ray.config.cluster import ClusterConfig
from sdft_ray.config.data import ModelConfig
from sdft_ray.config.learner import Precision
from sdft_ray.config.teacher import TeacherBackend, TeacherConfig, TeacherWeights


class Channel(Enum):
    """What carries the weights."""

    AUTO = auto()  # SHARED_MEMORY where the whole run is on one node, else OBJECT_STORE
    OBJECT_STORE = auto()  # Ray's: any hardware, any number of nodes
    SHARED_MEMORY = auto()  # one node: the learner writes into memory that the other processes map
    NCCL = auto()  # GPU to GPU to the rollout workers, through vLLM; EMA weights still take the object store


class TeacherEma(Enum):
    """Who averages the weights that an EMA teacher scores with."""

    LEARNER = auto()  # teacher workers load what the learner has averaged
    RECEIVER = auto()  # they average the student's publications themselves: no EMA weights travel


@dataclass(kw_only=True)
class WeightsConfig:
    """How weights are published and loaded."""

    channel: Channel = Channel.AUTO
    teacher_ema: TeacherEma = TeacherEma.LEARNER
    timeout_s: float = 600.0  # for publishing one version, and for each worker to take it over

    def __post_init__(self) -> None:
        positive("weights.timeout_s", self.timeout_s)

    def choose_channel(self, num_nodes: int) -> Channel:
        """The channel of a run on a Ray cluster of `num_nodes` nodes.

        AUTO takes SHARED_MEMORY where nothing can be placed on another node. It never takes NCCL, which no test of
        this project has run on a GPU: that is the user's choice.
        """
        if self.channel is not Channel.AUTO:
            return self.channel
        return Channel.SHARED_MEMORY if num_nodes == 1 else Channel.OBJECT_STORE

    def check_fit(self, cluster: ClusterConfig, teacher: TeacherConfig, model: ModelConfig) -> None:
        """Refuses what the rest of the run's settings rule out."""
        channel = f"weights.channel={self.channel.name}"
        require(
            self.channel is not Channel.SHARED_MEMORY or cluster.num_nodes == 1,
            "weights.channel",
            self.channel.name,
            f"reaches the workers of one node, but the cluster has {cluster.num_nodes}",
            "set weights.channel=OBJECT_STORE",
        )
        require(
            self.channel is not Channel.NCCL
            or (cluster.rollout.gpus_per_worker >= 1 and cluster.learner.gpus_per_worker == 1),
            "weights.channel",
            self.channel.name,
            "goes from GPU to GPU, but a rollout or learner worker has no whole GPU of its own",
            "set weights.channel=AUTO",
        )
        require(
            self.channel is not Channel.NCCL or teacher.weights is not TeacherWeights.LIVE,
            "teacher.weights",
            teacher.weights.name,
            f"reads the student's weights, which {channel} brings to rollout workers only",
            "set weights.channel=AUTO",
        )
        if self.teacher_ema is TeacherEma.RECEIVER:
            self._check_receiver(teacher, model)

    def _check_receiver(self, teacher: TeacherConfig, model: ModelConfig) -> None:
        require(
            teacher.weights is TeacherWeights.EMA,
            "weights.teacher_ema",
            self.teacher_ema.name,
            f"averages the student, but teacher.weights={teacher.weights.name} is no average",
            "set weights.teacher_ema=LEARNER",
        )
        require(
            teacher.backend is TeacherBackend.TRANSFORMERS,
            "weights.teacher_ema",
            self.teacher_ema.name,
            f"averages parameters as they are published, but teacher.backend={teacher.backend.name} keeps them in a "
            "form of its own",
            "set weights.teacher_ema=LEARNER, or teacher.backend=TRANSFORMERS",
        )
        require(
            model.dtype is Precision.FLOAT32,
            "weights.teacher_ema",
            self.teacher_ema.name,
            f"would average weights that were rounded to model.dtype={model.dtype.name} on their way, which loses "
            "updates smaller than half a unit in the last place",
            "set weights.teacher_ema=LEARNER, or model.dtype=FLOAT32",
        )
        require(
            self.channel is not Channel.NCCL,
            "weights.teacher_ema",
            self.teacher_ema.name,
            "averages the student's weights, which weights.channel=NCCL brings to rollout workers only",
            "set weights.channel=AUTO, or weights.teacher_ema=LEARNER",
        )
