"""The settings of the loss, checked at birth, and the names they may hold.

The names are strings rather than enums, because the configuration owns the enums and neither floor imports
the other. No tensors here, hence no shapes.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from sdft_ray.distill.divergence import TokenDivergence, make_divergence

EstimatorName = Literal["analytic", "sampled_token", "rao_blackwell"]
MismatchName = Literal["none", "sequence", "token"]
TargetName = Literal["nll", "dft"]


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
    """How the sampler's probabilities are corrected to the trainer's; see mismatch.py."""
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
