"""Every metric, declared once: its key, its unit, its meaning.

A key is `role/quantity_unit`; counts have no unit. `{set}` in a key stands for the name of an evaluation set.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

SET = "{set}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One number of a step or of an evaluation."""

    key: str
    unit: str
    meaning: str

    def set_name(self, key: str) -> str | None:
        """The evaluation set in `key`, "" where this metric has none, None where `key` is another metric."""
        before, placeholder, after = self.key.partition(SET)
        if not placeholder:
            return "" if key == self.key else None
        match = re.fullmatch(f"{re.escape(before)}([^/]+){re.escape(after)}", key)
        return match.group(1) if match else None


def _metric(key: str, unit: str, meaning: str) -> Metric:
    return Metric(key=key, unit=unit, meaning=meaning)


METRICS: tuple[Metric, ...] = (
    _metric("loop/step_s", "s", "wall time, from the wait for a batch to everybody's new weights"),
    _metric("loop/wait_s", "s", "time the learner waited for a full batch of scored samples"),
    _metric("loop/load_weights_s", "s", "time until every rollout and teacher worker held the new weights"),
    _metric("loop/staleness_max", "steps", "versions the oldest completion was behind the learner"),
    _metric("rollout/tokens", "tokens", "completion tokens of the batch"),
    _metric("rollout/completion_tokens_mean", "tokens", "mean length of a completion"),
    _metric("rollout/truncated_share", "share", "completions cut at the length limit"),
    _metric("learner/loss", "nats", "what is minimised: masked, normalised, corrected"),
    _metric("learner/divergence_nats", "nats", "divergence from the teacher, mean over counted tokens"),
    _metric("learner/student_entropy_nats", "nats", "entropy of the student, mean over counted tokens"),
    _metric("learner/teacher_entropy_nats", "nats", "entropy of the teacher, mean over counted tokens"),
    _metric("learner/grad_norm", "1", "global gradient norm before clipping"),
    _metric("learner/learning_rate", "1", "learning rate of the step"),
    _metric("learner/mismatch_max_nats", "nats", "largest |trainer logprob - sampler logprob|"),
    _metric("learner/correction_mean", "1", "mean of exp(trainer - sampler logprob), clipped"),
    _metric("learner/counted_tokens", "tokens", "completion tokens that carry loss"),
    _metric("learner/uncounted_samples", "samples", "samples without a counted token: exactly no loss"),
    _metric("learner/train_tokens", "tokens", "prompt and completion tokens the learner read"),
    _metric("learner/forward_backward_s", "s", "forward and backward passes"),
    _metric("learner/optimizer_s", "s", "gradient exchange, clipping and AdamW"),
    _metric("learner/ema_s", "s", "blending the student into the teacher"),
    _metric("evaluation/{set}_accuracy", "share", "greedy answers of the set that match"),
    _metric("evaluation/prior_logprob_nats", "nats", "logprob per token of answers that were never taught"),
)


def find_metric(key: str) -> tuple[Metric, str]:
    """The declaration of `key` and the evaluation set it names ("" for none).

    Raises:
        KeyError: nothing declares it.
    """
    for metric in METRICS:
        set_name = metric.set_name(key)
        if set_name is not None:
            return metric, set_name
    raise KeyError(f"metric {key} is not declared in sdft_ray/tracking/metrics.py")


def check_declared(keys: Iterable[str]) -> None:
    """Raises `KeyError` for the first key that nothing declares."""
    for key in keys:
        find_metric(key)
