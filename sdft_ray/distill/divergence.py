"""Divergences between next-token distributions, summed over the whole vocabulary: one class each, with its gradient.

`LossSettings` says which of them a loss minimises, and how its gradient is estimated.

Legend: T tokens, n of them in a chunk, V vocabulary; `...` stands for any leading shape. Everything is in nats.
In formulas p is the student's distribution and q the teacher's; sums run over v in [0, V).

A class spells its divergence twice. `value` is the definition, for autograd: the reference loss and the top-k chunks
differentiate it. `fuse` and `gradient` are what trains: the same value and its closed-form gradient on the student's
logits, made in place of the two distributions of a chunk. The tests hold the two against each other.

A new divergence is a class here, its line in `DIVERGENCES`, and the member of that name in `config.Divergence`.
Formulas: docs/method.md; arXiv 2601.19897, Eq. 1 and App. A.1.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from sdft_ray.distill.distributions import LOG_OF_ZERO, dot, expectation, in_fp32_at_least

EstimatorName = Literal["analytic", "sampled_token", "rao_blackwell"]
MismatchName = Literal["none", "sequence", "token"]
TargetName = Literal["nll", "dft"]


class Fused(NamedTuple):
    """A chunk's divergences, and what their gradient is made of."""

    value: Tensor  # [n]
    probs: Tensor  # [n, V] of the student
    factor: Tensor  # [n, V] that `gradient` overwrites; each class says what it holds


class TokenDivergence(ABC):
    """A divergence of the teacher's distribution from the student's at each token; the gradient is the student's."""

    def value(self, student_logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
        """The definition, in fp32 at least.

        Args:
            student_logprobs: [..., V], carries the gradient.
            teacher_logprobs: [..., V], detached here.

        Returns:
            [...]

        Raises:
            ValueError: the shapes differ; broadcasting would average over the wrong teacher.
        """
        if student_logprobs.shape != teacher_logprobs.shape:
            raise ValueError(
                f"student_logprobs {list(student_logprobs.shape)} and teacher_logprobs "
                f"{list(teacher_logprobs.shape)} must have one shape: cut both at the same num_vocab "
                "and score the same token ids"
            )
        return self._definition(in_fp32_at_least(student_logprobs), in_fp32_at_least(teacher_logprobs.detach()))

    @abstractmethod
    def _definition(self, student_logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
        """[...] from two [..., V] in fp32 at least."""

    @abstractmethod
    def fuse(self, logprobs: Tensor, teacher_logprobs: Tensor, teacher_probs: Tensor) -> Fused:
        """The value of every token of a chunk, without autograd.

        Args:
            logprobs: [n, V] of the student; left as they are.
            teacher_logprobs: [n, V]; their memory is used up.
            teacher_probs: [n, V], exp(teacher_logprobs); their memory is used up.
        """

    @abstractmethod
    def gradient(self, fused: Fused, of_value: Tensor) -> Tensor:
        """The gradient [n, V] on the student's logits, given that of the loss on each value [n]; uses up `fused`."""


class ReverseKL(TokenDivergence):
    """KL(p || q) = sum_v p_v (log p_v - log q_v), in [0, inf]: the paper's objective.

    Infinite where the teacher gives -inf to a token of which the student has mass, as defined.
    """

    def _definition(self, student_logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
        return expectation(student_logprobs.exp(), student_logprobs - teacher_logprobs)

    def fuse(self, logprobs: Tensor, teacher_logprobs: Tensor, teacher_probs: Tensor) -> Fused:
        """See `TokenDivergence`; the factor holds log p/q."""
        probs = torch.exp(logprobs, out=teacher_probs)
        log_ratio = torch.sub(logprobs, teacher_logprobs, out=teacher_logprobs)
        return Fused(dot(probs, log_ratio), probs, log_ratio)

    def gradient(self, fused: Fused, of_value: Tensor) -> Tensor:
        """P (log p/q - KL(p || q)): arXiv 2601.19897, App. A.1."""
        return _centred(fused.factor, fused.value, fused.probs, of_value)


class ForwardKL(TokenDivergence):
    """KL(q || p) = sum_v q_v (log q_v - log p_v), in [0, inf]: what the authors' released code runs.

    Infinite where the student gives -inf to a token of which the teacher has mass, as defined.
    """

    def _definition(self, student_logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
        return expectation(teacher_logprobs.exp(), teacher_logprobs - student_logprobs)

    def fuse(self, logprobs: Tensor, teacher_logprobs: Tensor, teacher_probs: Tensor) -> Fused:
        """See `TokenDivergence`; the factor holds q."""
        value = dot(teacher_probs, teacher_logprobs.sub_(logprobs))
        return Fused(value, torch.exp(logprobs, out=teacher_logprobs), teacher_probs)

    def gradient(self, fused: Fused, of_value: Tensor) -> Tensor:
        """P - q."""
        return torch.sub(fused.probs, fused.factor, out=fused.factor).mul_(of_value.unsqueeze(-1))


class JensenShannon(TokenDivergence):
    """beta KL(q || m) + (1 - beta) KL(p || m) with the mixture m = (1 - beta) p + beta q.

    Bounded by the entropy of (beta, 1 - beta), hence by log 2, and always finite; symmetric in p and q at beta = 0.5.
    """

    def __init__(self, beta: float):
        """Takes the teacher's share of the mixture.

        Raises:
            ValueError: beta is outside the open interval (0, 1).
        """
        if not 0.0 < beta < 1.0:
            raise ValueError(
                f"jsd beta={beta} must lie strictly between 0 and 1: the JSD vanishes at both ends, so it is no "
                "bridge between the two KLs; choose reverse_kl or forward_kl to have one of them"
            )
        self._beta = beta

    def _definition(self, student_logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
        # Where both sides hold -inf, logaddexp differentiates to NaN; below the clamp a probability is 0 anyway.
        teacher_logprobs = teacher_logprobs.clamp(min=LOG_OF_ZERO)
        mixture = self._mixture(student_logprobs, teacher_logprobs)
        teacher_part = expectation(teacher_logprobs.exp(), teacher_logprobs - mixture)
        student_part = expectation(student_logprobs.exp(), student_logprobs - mixture)
        return self._beta * teacher_part + (1.0 - self._beta) * student_part

    def fuse(self, logprobs: Tensor, teacher_logprobs: Tensor, teacher_probs: Tensor) -> Fused:
        """See `TokenDivergence`; the factor holds log p/m."""
        mixture = self._mixture(logprobs, teacher_logprobs)
        teacher_part = dot(teacher_probs, teacher_logprobs.sub_(mixture))
        probs = torch.exp(logprobs, out=teacher_probs)
        log_ratio = torch.sub(logprobs, mixture, out=mixture)
        return Fused(self._beta * teacher_part + (1.0 - self._beta) * dot(probs, log_ratio), probs, log_ratio)

    def gradient(self, fused: Fused, of_value: Tensor) -> Tensor:
        """(1 - beta) p (log p/m - KL(p || m)); the terms through m cancel."""
        kl_to_mixture = dot(fused.probs, fused.factor)
        return _centred(fused.factor, kl_to_mixture, fused.probs, (1.0 - self._beta) * of_value)

    def _mixture(self, logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
        """Log m [..., V]."""
        return torch.logaddexp(logprobs + math.log1p(-self._beta), teacher_logprobs + math.log(self._beta))


DIVERGENCES = {
    "reverse_kl": lambda jsd_beta: ReverseKL(),
    "forward_kl": lambda jsd_beta: ForwardKL(),
    "jsd": JensenShannon,
}


def make_divergence(name: str, jsd_beta: float) -> TokenDivergence:
    """The divergence of that name; `jsd_beta` is read by jsd only.

    Raises:
        ValueError: the name is unknown, or jsd_beta cannot be used.
    """
    if name not in DIVERGENCES:
        raise ValueError(f"divergence={name!r} is unknown: choose one of {', '.join(DIVERGENCES)}")
    return DIVERGENCES[name](jsd_beta)


def _centred(log_ratio: Tensor, mean: Tensor, probs: Tensor, of_value: Tensor) -> Tensor:
    """P (log_ratio - mean) times the gradient on the value, in place of `log_ratio` [n, V]."""
    return log_ratio.sub_(mean.unsqueeze(-1)).mul_(probs).mul_(of_value.unsqueeze(-1))


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSettings:
    """What teacher_loss minimises and how it estimates the gradient.

    Raises:
        ValueError: a name is unknown, a number is out of range, or the estimator does not fit the divergence.
    """

    divergence: str
    """A name of `DIVERGENCES`."""
    jsd_beta: float
    """The teacher's share of the JSD's mixture, in (0, 1); read by jsd only."""
    estimator: EstimatorName
    """See `reduce_terms` in reduction.py; all but analytic estimate the gradient of the reverse KL only."""
    temperature: float
    """The sampling temperature, > 0; both sides' logits are divided by it."""
    mismatch: MismatchName
    """How the sampler's probabilities are corrected to the trainer's; see `mismatch_correction`."""
    mismatch_clip: float = 2.0
    """The upper bound of a token's probability ratio, > 0 (2.0 in the authors' code)."""

    def __post_init__(self) -> None:
        self.make_divergence()  # checks its name and jsd_beta
        check_name("estimator", self.estimator, EstimatorName)
        check_name("mismatch", self.mismatch, MismatchName)
        if self.estimator != "analytic" and self.divergence != "reverse_kl":
            raise ValueError(
                f"estimator={self.estimator} estimates the gradient of reverse_kl, not of "
                f"divergence={self.divergence}: choose estimator=analytic, or divergence=reverse_kl"
            )
        for key, value in (("temperature", self.temperature), ("mismatch_clip", self.mismatch_clip)):
            if not value > 0.0:
                raise ValueError(f"{key}={value} must be greater than 0")

    def make_divergence(self) -> TokenDivergence:
        """The divergence that these settings name."""
        return make_divergence(self.divergence, self.jsd_beta)


def check_name(key: str, name: str, names: Any) -> None:
    """Accepts a name that its Literal holds.

    Args:
        key: what the name is called in the settings.
        name: the name given.
        names: the Literal of the names there are.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in get_args(names):
        raise ValueError(f"{key}={name!r} is unknown: choose one of {', '.join(get_args(names))}")
