"""Settings of the teacher: its weights, its context, and the workers that score with it."""

from dataclasses import dataclass
from enum import Enum, auto

from sdft_ray.config.checks import at_least, require, share
from sdft_ray.config.learner import Precision


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
    NONE = auto()  # the plain prompt: no context at all


@dataclass(kw_only=True)
class TeacherConfig:
    """Who the teacher is and how it scores."""

    weights: TeacherWeights = TeacherWeights.EMA
    path: str = ""  # a FROZEN teacher may be another model with the same tokenizer: hub id or folder; "" is model.path
    ema_decay: float = 0.99  # the share of the OLD teacher kept at each step (the paper's alpha is 1 - ema_decay)
    context: TeacherContext = TeacherContext.DEMONSTRATION
    template: str = "single_turn"  # a built-in teacher prompt (data/prompts.py) or the path of a Jinja file
    payload_precision: Precision = Precision.FLOAT32  # of the logits that travel to the learner
    max_tokens_per_forward: int = 8192  # requests waiting together are scored in one forward up to this many tokens

    def __post_init__(self) -> None:
        share("teacher.ema_decay", self.ema_decay)
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
        at_least(1, "teacher.max_tokens_per_forward", self.max_tokens_per_forward)
