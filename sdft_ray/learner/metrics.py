"""The metrics of one step, from what the ranks summed up and what the samples themselves tell."""

from collections.abc import Sequence

from sdft_ray.records import RankReport, Sample


def step_metrics(
    batch: Sequence[Sample], reports: Sequence[RankReport], weights: Sequence[Sequence[float]], *, sampled: bool
) -> dict[str, float]:
    """Keys as declared in tracking/metrics.py.

    Args:
        batch: the samples of the global batch.
        reports: one a rank.
        weights: one a completion token of each sample; 0 where a token is not counted.
        sampled: whether the completions have a sampler whose logprobs can be compared.
    """
    rollouts = [sample.rollout for sample in batch]
    completion_tokens = sum(len(rollout.completion_tokens) for rollout in rollouts)
    counted = sum(report.counted_tokens for report in reports)

    def mean(total: float) -> float:
        return total / counted if counted else 0.0

    metrics = {
        "rollout/tokens": float(completion_tokens if sampled else 0),
        "rollout/completion_tokens_mean": completion_tokens / len(batch),
        "rollout/truncated_share": sum(rollout.truncated for rollout in rollouts) / len(batch),
        "learner/loss": sum(report.loss for report in reports),
        "learner/divergence_nats": mean(sum(report.divergence for report in reports)),
        "learner/student_entropy_nats": mean(sum(report.student_entropy for report in reports)),
        "learner/teacher_entropy_nats": mean(sum(report.teacher_entropy for report in reports)),
        "learner/correction_mean": mean(sum(report.correction for report in reports)),
        "learner/grad_norm": reports[0].grad_norm,
        "learner/counted_tokens": float(counted),
        "learner/uncounted_samples": float(sum(not any(sample_weights) for sample_weights in weights)),
        "learner/train_tokens": float(completion_tokens + sum(len(rollout.prompt_tokens) for rollout in rollouts)),
    }
    if sampled:
        metrics["learner/mismatch_max_nats"] = max(report.mismatch_max for report in reports)
    for key in reports[0].durations_s:
        metrics[key] = max(report.durations_s[key] for report in reports)
    return metrics
