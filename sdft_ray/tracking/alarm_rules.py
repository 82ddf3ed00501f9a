"""The rules of the alarms: what must not happen in a run, with the numbers of `AlarmsConfig`; `alarms.py` watches them.

The reference is the mean of the first `reference_steps` steps of a run, or of a stage where it has stages. From there
on a running mean m <- memory * m + (1 - memory) * value begins at the reference, and a rule is broken where

    entropy      student entropy         m < entropy_share * reference
    length       completion length       m < length_share * reference
    runaway      completion length       m > length_factor * reference, and truncated completions m > truncated_share
    divergence   from the teacher        m > divergence_factor * reference, and m > divergence_nats
    mismatch     sampler and learner     m > mismatch_nats, where every completion of the step was on-policy

for `patience` steps in a row. Rules of single steps look at the step's own values:

    uncounted    counted tokens          share < counted_share, `patience` steps in a row
    vanished     gradient norm           < grad_norm, `patience` steps in a row
    loss_spike, divergence_spike         one step: |value| > spike_factor * m, and > spike_nats
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sdft_ray.config import AlarmsConfig

COUNTED_SHARE = "learner/counted_share"
GRAD_NORM = "learner/grad_norm"
LOSS = "learner/loss"
ENTROPY = "learner/student_entropy_nats"
LENGTH = "rollout/completion_tokens_mean"
TRUNCATED = "rollout/truncated_share"
DIVERGENCE = "learner/divergence_nats"
MISMATCH = "learner/mismatch_max_nats"

Values = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What must not last."""

    name: str
    says: str  # what has happened where it is broken
    metric: str
    broken: Callable[[Values, Values], bool]  # by these values, given the reference


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRule:
    """What steps must not do by themselves."""

    name: str
    says: str  # what has happened where it is broken, and the remedy
    metric: str
    num_steps: int  # in a row that raise it
    broken: Callable[[float, float | None], bool]  # by the value, given the running mean before it, once there is one


def mean_rules(cfg: AlarmsConfig) -> tuple[Rule, ...]:
    """The rules that are held against the first steps."""
    return (
        Rule(
            name="entropy",
            says="the student's entropy has collapsed",
            metric=ENTROPY,
            broken=lambda values, reference: values[ENTROPY] < cfg.entropy_share * reference[ENTROPY],
        ),
        Rule(
            name="length",
            says="the completions have collapsed to a fraction of their length",
            metric=LENGTH,
            broken=lambda values, reference: values[LENGTH] < cfg.length_share * reference[LENGTH],
        ),
        Rule(
            name="runaway",
            says="the completions run away to their length limit",
            metric=LENGTH,
            broken=lambda values, reference: (
                values[LENGTH] > cfg.length_factor * reference[LENGTH] and values[TRUNCATED] > cfg.truncated_share
            ),
        ),
        Rule(
            name="divergence",
            says="the student moves away from its teacher",
            metric=DIVERGENCE,
            broken=lambda values, reference: (
                values[DIVERGENCE] > max(cfg.divergence_factor * reference[DIVERGENCE], cfg.divergence_nats)
            ),
        ),
        Rule(
            name="mismatch",
            says="the rollout engines sample from other weights than the learner holds",
            metric=MISMATCH,
            broken=lambda values, reference: values[MISMATCH] > cfg.mismatch_nats,
        ),
    )


def step_rules(cfg: AlarmsConfig) -> tuple[StepRule, ...]:
    """The rules of single steps."""

    def leaps(value: float, mean: float | None) -> bool:
        return mean is not None and abs(value) > max(cfg.spike_factor * mean, cfg.spike_nats)

    spike = "look at the step in samples.jsonl, and lower learner.learning_rate or learner.max_grad_norm"
    return (
        StepRule(
            name="uncounted",
            says="almost no token carries loss, so nothing is learned: lower loss.skip_first_tokens, set "
            "loss.drop_truncated=false, or raise rollout.max_new_tokens so that completions reach loss.skip_until, if "
            "that is set",
            metric=COUNTED_SHARE,
            num_steps=cfg.patience,
            broken=lambda value, _: value < cfg.counted_share,
        ),
        StepRule(
            name="vanished",
            says="the gradient has vanished, so nothing is learned: lower loss.skip_first_tokens, or ask "
            "mode=check_teacher whether the teacher knows more than the student",
            metric=GRAD_NORM,
            num_steps=cfg.patience,
            broken=lambda value, _: value < cfg.grad_norm,
        ),
        StepRule(name="loss_spike", says=f"the loss leaps: {spike}", metric=LOSS, num_steps=1, broken=leaps),
        StepRule(
            name="divergence_spike",
            says=f"the divergence leaps: {spike}",
            metric=DIVERGENCE,
            num_steps=1,
            broken=leaps,
        ),
    )
