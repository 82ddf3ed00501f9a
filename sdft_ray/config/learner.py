"""Settings of the DeepSpeed learner group."""

from dataclasses import dataclass
from enum import Enum, auto

from sdft_ray.config.cluster import ClusterConfig
from sdft_ray.config.validation import at_least, positive, require, share


class Precision(Enum):
    """A floating point type of weights and activations."""

    AUTO = auto()  # BFLOAT16 on GPUs, FLOAT32 on CPUs; settled when a run's settings are checked
    FLOAT32 = auto()
    BFLOAT16 = auto()

    def settled(self, *, on_gpu: bool) -> "Precision":
        """What is computed in."""
        if self is not Precision.AUTO:
            return self
        return Precision.BFLOAT16 if on_gpu else Precision.FLOAT32


class Saving(Enum):
    """What training does while a checkpoint is written."""

    AUTO = auto()  # BACKGROUND on GPUs, BLOCKING on CPUs; settled when a run's settings are checked
    BLOCKING = auto()  # stands still: nothing is copied
    BACKGROUND = auto()  # goes on once a copy lies in host memory: 12 bytes a parameter, 16 with an average

    def settled(self, *, on_gpu: bool) -> "Saving":
        """What is done."""
        if self is not Saving.AUTO:
            return self
        return Saving.BACKGROUND if on_gpu else Saving.BLOCKING


class Schedule(Enum):
    """What the learning rate does after warm-up."""

    COSINE = auto()  # to 0 at the last step
    CONSTANT = auto()


@dataclass(kw_only=True)
class LearnerConfig:
    """How the student is updated."""

    learning_rate: float = 1e-5  # in (0, 1]; about how far AdamW moves a weight in one step
    schedule: Schedule = Schedule.COSINE
    warmup_steps: int = 10  # linear, from 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # clips the global gradient norm
    zero_stage: int = 2  # 0 replicates everything, 1 shards optimizer state, 2 gradients too, 3 parameters too
    precision: Precision = Precision.AUTO  # of forward and backward; masters and EMA are fp32 either way
    max_tokens_per_microbatch: int = 8192  # prompts and completions of one forward pass on one rank, together
    saving: Saving = Saving.AUTO  # whether training goes on while a checkpoint is written
    offload: bool = False  # masters, moments and average in host memory, updated by the CPU while the GPU is free
    gradient_checkpointing: bool = False  # recompute activations in the backward pass: less memory, 1.3x the time

    def __post_init__(self) -> None:
        require(
            0 < self.learning_rate <= 1,
            "learner.learning_rate",
            self.learning_rate,
            "must lie in (0, 1]: AdamW moves every weight by about as much in one step",
            "set it to 1e-5; the paper's grid is 5e-6 to 5e-5",
        )
        at_least(0, "learner.warmup_steps", self.warmup_steps)
        share("learner.adam_beta1", self.adam_beta1)
        share("learner.adam_beta2", self.adam_beta2)
        positive("learner.adam_epsilon", self.adam_epsilon)
        at_least(0, "learner.weight_decay", self.weight_decay)
        positive("learner.max_grad_norm", self.max_grad_norm)
        at_least(1, "learner.max_tokens_per_microbatch", self.max_tokens_per_microbatch)
        require(
            self.zero_stage in (0, 1, 2, 3),
            "learner.zero_stage",
            self.zero_stage,
            "is not a ZeRO stage",
            "choose 0, 1, 2 or 3",
        )
        self.check_masters()
        self.check_offload()

    def check_masters(self) -> None:
        """Refuses a precision without fp32 masters."""
        require(
            self.precision is not Precision.BFLOAT16 or self.zero_stage > 0,
            "learner.zero_stage",
            self.zero_stage,
            "has no fp32 masters beside bf16 weights (learner.precision, by default on GPUs), so small updates would "
            "be rounded away",
            "set learner.zero_stage=1 or more, or learner.precision=FLOAT32",
        )

    def check_offload(self) -> None:
        """Refuses what DeepSpeed cannot keep in host memory."""
        require(
            not self.offload or self.zero_stage > 1,
            "learner.offload",
            self.offload,
            f"is DeepSpeed's ZeRO-Offload, which learner.zero_stage={self.zero_stage} is not a part of",
            "set learner.zero_stage=2 or 3, or learner.offload=false",
        )

    def check_turns(self, cluster: ClusterConfig) -> None:
        """Refuses what cannot leave a GPU between two turns."""
        require(
            not (cluster.turns and cluster.learner.device == "cuda") or self.zero_stage == 2,
            "learner.zero_stage",
            self.zero_stage,
            "keeps its states where DeepSpeed cannot move them from the GPU, as cluster.turns=true asks: it moves "
            "those of ZeRO 2, and those of ZeRO 3 with an optimizer of its own only",
            "set learner.zero_stage=2, which shards no less on one GPU, or cluster.turns=false",
        )

    def holds_all(self, num_ranks: int) -> bool:
        """Whether a rank holds all weights, gradients and moments, in fp32, and is the only one that does."""
        return self.zero_stage == 0 and num_ranks == 1
