"""Settings of how new weights travel from the learner to the rollout and teacher workers."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from sdft_ray.config.cluster import ClusterConfig
from sdft_ray.config.data import ModelConfig
from sdft_ray.config.learner import Precision
from sdft_ray.config.teacher import TeacherBackend, TeacherConfig, TeacherWeights
from sdft_ray.config.validation import positive, require


class Reach(NamedTuple):
    """What a channel connects; settings and plans ask this and not for a channel by name."""

    one_node: bool = False  # workers map the host memory that the learner writes
    gpu_to_gpu: bool = False  # from whole GPUs of the learner to those of rollout workers, and to no others


class Channel(Enum):
    """What carries the weights. A member but AUTO is the module in sdft_ray/weights of the same name."""

    AUTO = 0, Reach()  # SHARED_MEMORY where the whole run is on one node, else OBJECT_STORE
    OBJECT_STORE = 1, Reach()  # Ray's: any hardware, any number of nodes
    SHARED_MEMORY = 2, Reach(one_node=True)  # one node: the learner writes into memory that the other processes map
    NCCL = 3, Reach(gpu_to_gpu=True)  # GPU to GPU to rollout workers, by vLLM; EMA weights take the object store

    def __init__(self, _number: int, reach: Reach):
        self.reach = reach


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
            not self.channel.reach.one_node or cluster.num_nodes == 1,
            "weights.channel",
            self.channel.name,
            f"reaches the workers of one node, but the cluster has {cluster.num_nodes}",
            "set weights.channel=OBJECT_STORE",
        )
        require(
            not self.channel.reach.gpu_to_gpu
            or (cluster.rollout.gpus_per_worker >= 1 and cluster.learner.gpus_per_worker == 1),
            "weights.channel",
            self.channel.name,
            "goes from GPU to GPU, but a rollout or learner worker has no whole GPU of its own",
            "set weights.channel=AUTO",
        )
        require(
            not self.channel.reach.gpu_to_gpu or teacher.weights is not TeacherWeights.LIVE,
            "teacher.weights",
            teacher.weights.name,
            f"reads the student's weights, which {channel} brings to rollout workers only",
            "set weights.channel=AUTO",
        )
        require(
            not self.channel.reach.gpu_to_gpu or not model.adapter.is_on,
            "weights.channel",
            self.channel.name,
            f"brings whole weights to engines, but model.adapter.kind={model.adapter.kind.name} publishes factors, "
            "which are merged in host memory",
            "set weights.channel=AUTO",
        )
        require(
            not cluster.rollout.is_elastic or not (self.channel.reach.one_node or self.channel.reach.gpu_to_gpu),
            "weights.channel",
            self.channel.name,
            f"reaches no worker that joins, and cluster.rollout.max_workers={cluster.rollout.max_workers} has some",
            "set weights.channel=OBJECT_STORE, or leave max_workers out",
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
            not model.adapter.is_on,
            "weights.teacher_ema",
            self.teacher_ema.name,
            f"averages weight by weight, but with model.adapter.kind={model.adapter.kind.name} what is averaged is the "
            "product of two factors, which the learner does",
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
            not self.channel.reach.gpu_to_gpu,
            "weights.teacher_ema",
            self.teacher_ema.name,
            f"averages the student's weights, which weights.channel={self.channel.name} brings to rollout workers only",
            "set weights.channel=AUTO, or weights.teacher_ema=LEARNER",
        )
