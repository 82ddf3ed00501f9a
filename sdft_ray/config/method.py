"""A method is three choices: whose completion, which target at each token, which teacher (docs/method.md).

The third choice, the teacher's weights and context, is made in `TeacherConfig`.
"""

from dataclasses import dataclass
from enum import Enum, auto

from sdft_ray.config.validation import at_least, positive, require


class CompletionSource(Enum):
    """Whose completion is trained on."""

    STUDENT = auto()  # sampled from the student: on-policy
    TEACHER = auto()  # sampled from the teacher under its own prompt, once an example, before training
    DEMONSTRATION = auto()  # the expert's
    TEXT = auto()  # the raw text of the data, with no prompt: every position is learned


class Target(Enum):
    """What the student moves towards at each token."""

    TEACHER = auto()  # the teacher's full-vocabulary distribution
    TOKEN = auto()  # the token itself: negative log-likelihood
    TOKEN_DFT = auto()  # the same, weighted by the detached probability of the token (arXiv 2508.05629)


class Divergence(Enum):
    """Per-token divergence between student p and teacher q."""

    REVERSE_KL = auto()  # KL(p || q)
    FORWARD_KL = auto()  # KL(q || p)
    JSD = auto()  # Jensen-Shannon with loss.jsd_beta


class Estimator(Enum):
    """How the gradient of the reverse KL is estimated (paper, appendix A.1)."""

    ANALYTIC = auto()  # the full-vocabulary sum at each token
    SAMPLED_TOKEN = auto()  # log(p/q) at the sampled token times its score
    RAO_BLACKWELL = auto()  # analytic, plus each token's KL times the score of the tokens before it


class Normalization(Enum):
    """What the loss is a mean over; exact over microbatches, accumulation and ranks either way."""

    SEQUENCE_MEAN = auto()  # mean over sequences of the mean over counted tokens
    TOKEN_MEAN = auto()  # mean over all counted tokens of the global batch


class MismatchCorrection(Enum):
    """Importance weight exp(trainer logprob - sampler logprob), clipped above and detached."""

    NONE = auto()  # no sample is weighed
    SEQUENCE = auto()  # the mean over a completion's counted tokens weighs all of it
    TOKEN = auto()  # every token has its own


@dataclass(kw_only=True)
class MethodConfig:
    """Whose completion is trained on, and towards what."""

    name: str = "sdft"  # for reports only; nothing branches on it
    completion: CompletionSource = CompletionSource.STUDENT
    target: Target = Target.TEACHER

    @property
    def has_teacher(self) -> bool:
        """Whether anything is asked of a teacher, so that there have to be teacher prompts."""
        return Target.TEACHER is self.target or CompletionSource.TEACHER is self.completion

    @property
    def samples(self) -> bool:
        """Whether completions are sampled at all."""
        return self.completion in (CompletionSource.STUDENT, CompletionSource.TEACHER)

    @property
    def rehearses_on_policy(self) -> bool:
        """True when the student samples what is rehearsed; else the model as it began has, before training."""
        return self.completion is CompletionSource.STUDENT and self.target is Target.TEACHER


@dataclass(kw_only=True)
class LossConfig:
    """The divergence and what is averaged how."""

    divergence: Divergence = Divergence.REVERSE_KL
    jsd_beta: float = 0.5  # weight of the teacher in the mixture, in (0, 1)
    estimator: Estimator = Estimator.ANALYTIC
    normalization: Normalization = Normalization.SEQUENCE_MEAN
    skip_first_tokens: int = 3  # completion tokens left out of the loss, though not of the attention
    skip_until: str = ""  # tokens up to and including this text carry no loss, such as </think>; without it none does
    drop_truncated: bool = False  # completions cut at the length limit carry no loss
    mismatch: MismatchCorrection = MismatchCorrection.SEQUENCE  # weight exp(learner's logprob - sampler's), clipped
    mismatch_clip: float = 2.0  # the largest weight of the correction

    def __post_init__(self) -> None:
        at_least(0, "loss.skip_first_tokens", self.skip_first_tokens)
        positive("loss.mismatch_clip", self.mismatch_clip)
        require(
            0 < self.jsd_beta < 1,
            "loss.jsd_beta",
            self.jsd_beta,
            "JSD vanishes at both ends, so it is no bridge between the two KLs",
            "choose a value inside (0, 1), or loss.divergence=REVERSE_KL or FORWARD_KL",
        )
        require(
            self.estimator is Estimator.ANALYTIC or self.divergence is Divergence.REVERSE_KL,
            "loss.estimator",
            self.estimator.name,
            f"estimates the gradient of the reverse KL, but loss.divergence={self.divergence.name}",
            "set loss.estimator=ANALYTIC or loss.divergence=REVERSE_KL",
        )
