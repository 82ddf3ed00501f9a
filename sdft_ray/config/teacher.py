"""Settings of the teacher: its weights, its context, and the workers that score with it."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from sdft_ray.config.cluster import ClusterConfig
from sdft_ray.config.learner import Precision
from sdft_ray.config.pool import DemonstrationSource, PoolConfig
from sdft_ray.config.validation import at_least, check_switches, positive, require, share


class TeacherBackend(Enum):
    """What computes the teacher's hidden states."""

    TRANSFORMERS = auto()  # on one GPU or the CPU; every payload
    VLLM = auto()  # one engine on one or several GPUs, long sequences read in pieces; HIDDEN payloads only


class TeacherWeights(Enum):
    """Which weights the teacher has."""

    EMA = auto()  # ema_decay * old + (1 - ema_decay) * student, after every step
    FROZEN = auto()  # those the run began with
    LIVE = auto()  # the student's own


class TeacherContext(Enum):
    """What the teacher sees besides the prompt."""

    DEMONSTRATION = auto()
    TEXT = auto()  # the article only
    TEXT_AND_DEMONSTRATION = auto()
    FIELDS = auto()  # what the template names of the row's own `context`, an object of fields
    NONE = auto()  # the plain prompt: no context at all


class Payload(Enum):
    """What a teacher worker sends to the learner for every completion token."""

    HIDDEN = auto()  # the last hidden state; with the teacher's head the learner has the exact distribution
    LOGITS = auto()  # the full-vocabulary logits: exact as well, at a hundred times the bytes
    TOPK = auto()  # the teacher's most likely tokens: an approximation


class Tail(Enum):
    """What becomes of the tokens that a TOPK payload leaves out."""

    BUCKET = auto()  # all other tokens are one more outcome, on both sides
    RENORMALIZE = auto()  # all other tokens are left out, on both sides


@dataclass(kw_only=True)
class TeacherConfig:
    """Who the teacher is and how it scores."""

    backend: TeacherBackend = TeacherBackend.TRANSFORMERS
    weights: TeacherWeights = TeacherWeights.EMA
    path: str = ""  # a FROZEN teacher may be another model with the same tokenizer: hub id or folder; "" is model.path
    ema_decay: float = 0.99  # the share of the OLD teacher kept at each step (the paper's alpha is 1 - ema_decay)
    context: TeacherContext = TeacherContext.DEMONSTRATION
    demonstrations: DemonstrationSource = DemonstrationSource.OWN
    pool: PoolConfig = field(default_factory=PoolConfig)
    template: str = "single_turn"  # one of data/teacher_template.py, a Jinja file's path, or Jinja text, which has {{
    template_switches: dict[str, Any] = field(
        default_factory=dict
    )  # of the teacher alone, over model.template_switches; they make its prompts differ from the student's on purpose
    payload: Payload = Payload.HIDDEN
    payload_precision: Precision = Precision.FLOAT32  # of the hidden states or logits that travel to the learner
    top_k: int = 100  # tokens of a TOPK payload
    tail: Tail = Tail.BUCKET  # of a TOPK payload
    max_tokens_per_forward: int = 8192  # requests waiting together are scored in one forward up to this many tokens
    one_by_one: bool = False  # each completion has a forward pass of its own; true where deterministic=true
    gpu_memory_share: float = 0.9  # backend=VLLM: of the worker's part of its GPUs, for weights and KV cache
    kv_cache_gib: float = 1.0  # backend=VLLM: KV cache on a CPU, or on a GPU shared with others at the same time

    def __post_init__(self) -> None:
        check_switches("teacher.template_switches", self.template_switches)
        share("teacher.ema_decay", self.ema_decay)
        require(
            self.payload_precision is not Precision.AUTO,
            "teacher.payload_precision",
            self.payload_precision.name,
            "depends on the machine, but what travels is the same everywhere",
            "choose FLOAT32 or BFLOAT16",
        )
        require(
            self.weights is not TeacherWeights.EMA or self.ema_decay >= 0.5,
            "teacher.ema_decay",
            self.ema_decay,
            "keeps less than half of the old teacher at each step, which looks like the student's share",
            "set ema_decay = 1 - alpha (0.99 for the paper's alpha 0.01), or teacher.weights=LIVE",
        )
        require(
            not self.path or self.weights is TeacherWeights.FROZEN,
            "teacher.path",
            self.path,
            f"names a model of its own, but teacher.weights={self.weights.name} follows the student",
            "set teacher.weights=FROZEN, or leave teacher.path empty",
        )
        require(
            self.payload is Payload.HIDDEN or self.backend is TeacherBackend.TRANSFORMERS,
            "teacher.payload",
            self.payload.name,
            "takes the teacher's output head, which teacher.backend=VLLM does not load",
            "set teacher.payload=HIDDEN, or teacher.backend=TRANSFORMERS",
        )
        self._check_pool()
        at_least(1, "teacher.top_k", self.top_k)
        at_least(1, "teacher.max_tokens_per_forward", self.max_tokens_per_forward)
        positive("teacher.gpu_memory_share", self.gpu_memory_share)
        positive("teacher.kv_cache_gib", self.kv_cache_gib)

    @property
    def tokens_scored_together(self) -> int:
        """What requests that wait together may have in all; 0 has each scored by itself."""
        return 0 if self.one_by_one else self.max_tokens_per_forward

    @property
    def shows_pool(self) -> bool:
        """True when the teacher is shown demonstrations of other rows."""
        return self.demonstrations is not DemonstrationSource.OWN

    def _check_pool(self) -> None:
        shows = self.context in (TeacherContext.DEMONSTRATION, TeacherContext.TEXT_AND_DEMONSTRATION)
        require(
            shows or not self.shows_pool,
            "teacher.demonstrations",
            self.demonstrations.name,
            f"takes demonstrations from the pool, but teacher.context={self.context.name} shows none",
            "set teacher.context=DEMONSTRATION or TEXT_AND_DEMONSTRATION, or teacher.demonstrations=OWN",
        )
        require(
            self.pool.exclude_own or self.demonstrations is not DemonstrationSource.OWN_AND_POOL,
            "teacher.pool.exclude_own",
            self.pool.exclude_own,
            "would show a row's own demonstration twice under teacher.demonstrations=OWN_AND_POOL",
            "set it to true, or teacher.demonstrations=POOL",
        )

    def check_fit(self, cluster: ClusterConfig) -> None:
        """Refuses a placement of the teacher workers that their backend cannot use."""
        require(
            cluster.teacher.gpus_per_worker <= 1 or self.backend is TeacherBackend.VLLM,
            "cluster.teacher.gpus_per_worker",
            cluster.teacher.gpus_per_worker,
            "a teacher worker in transformers computes on one GPU",
            "set teacher.backend=VLLM, which spreads a teacher over its GPUs, or cluster.teacher.gpus_per_worker=1",
        )
