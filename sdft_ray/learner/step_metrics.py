"""The metrics of a step, from what its ranks and samples have told."""

from collections.abc import Sequence

import numpy as np

from sdft_ray.records import MatmulSeconds, RankReport, SampleReport

# Completion positions, from 0 at the first token; tokens without loss keep their places.
POSITION_BUCKETS = {
    "learner/divergence_first_nats": slice(0, 8),
    "learner/divergence_early_nats": slice(8, 32),
    "learner/divergence_middle_nats": slice(32, 128),
    "learner/divergence_last_nats": slice(128, None),
}


def step_metrics(
    samples: Sequence[SampleReport],
    reports: Sequence[RankReport],
    *,
    weight_version: int,
    sampled: bool,
    matmuls: Sequence[MatmulSeconds] = (),
) -> dict[str, float]:
    """Keys as declared in tracking/metrics.py.

    Args:
        samples: all of the global batch.
        reports: one a rank.
        weight_version: of the weights the step began with.
        sampled: whether the completions have a sampler whose logprobs can be compared.
        matmuls: one a rank; () where they were not measured.
    """
    prompt_tokens = sum(len(sample.prompt_tokens) for sample in samples)
    completion_tokens = sum(len(sample.completion_tokens) for sample in samples)
    input_tokens = sum(report.input_tokens for report in reports)
    sequence_tokens = sum(report.sequence_tokens for report in reports)
    needed_tokens = prompt_tokens + completion_tokens - len(samples)  # nothing is predicted from a last token
    counted = sum(report.counted_tokens for report in reports)

    def mean(total: float) -> float:
        return total / counted if counted else 0.0

    metrics = {
        "rollout/completion_tokens_mean": completion_tokens / len(samples),
        "rollout/truncated_share": sum(sample.truncated for sample in samples) / len(samples),
        "learner/loss": sum(report.loss for report in reports),
        "learner/divergence_nats": mean(sum(report.divergence for report in reports)),
        "learner/student_entropy_nats": mean(sum(report.student_entropy for report in reports)),
        "learner/teacher_entropy_nats": mean(sum(report.teacher_entropy for report in reports)),
        "learner/correction_mean": mean(sum(report.correction for report in reports)),
        "learner/grad_norm": reports[0].grad_norm,
        "learner/counted_tokens": float(counted),
        "learner/counted_share": counted / max(completion_tokens, 1),
        "learner/train_tokens": float(prompt_tokens + completion_tokens),
        "learner/padded_share": 1 - needed_tokens / sequence_tokens,
        "learner/shared_share": 1 - input_tokens / sequence_tokens,
        "loop/staleness_max": float(weight_version - min(sample.weight_version for sample in samples)),
    }
    taught = [sample for sample in samples if not sample.is_rehearsal]
    if sampled:
        metrics["learner/mismatch_max_nats"] = max(report.mismatch_max for report in reports)
        metrics["rollout/copied_share"] = sum(sample.copied_share for sample in taught) / len(taught)
    for key in reports[0].durations_s:
        metrics[key] = max(report.durations_s[key] for report in reports)
    if matmuls:
        least_s = max(
            report.input_tokens * seconds.per_token + report.head_rows * seconds.per_head_row
            for report, seconds in zip(reports, matmuls, strict=True)
        )
        metrics["learner/matmul_share"] = least_s / metrics["learner/forward_backward_s"]
    return metrics | divergence_by_position(samples) | rehearsal_metrics(samples)


def rehearsal_metrics(samples: Sequence[SampleReport]) -> dict[str, float]:
    """What the rehearsal rows of a batch come to, and the other rows beside them; nothing where none is a rehearsal."""
    rehearsed = [sample for sample in samples if sample.is_rehearsal]
    if not rehearsed:
        return {}
    num_tokens = sum(len(sample.completion_tokens) for sample in rehearsed)
    metrics = {"rehearsal/rows": float(len(rehearsed)), "rehearsal/completion_tokens_mean": num_tokens / len(rehearsed)}
    taught = [sample for sample in samples if not sample.is_rehearsal]
    for key, chosen in (("rehearsal/divergence_nats", rehearsed), ("rehearsal/taught_divergence_nats", taught)):
        values = np.concatenate([_counted(sample, slice(0, None)) for sample in chosen])
        if len(values):
            metrics[key] = float(values.mean(dtype=np.float64))
    return metrics


def divergence_by_position(samples: Sequence[SampleReport]) -> dict[str, float]:
    """The mean divergence of the counted tokens of each bucket of positions; no key where there is none.

    Made of every sample once, whichever rank trained on it, so ranks, rounds and fillers leave no trace.
    """
    metrics = {}
    for key, positions in POSITION_BUCKETS.items():
        values = np.concatenate([_counted(sample, positions) for sample in samples])
        if len(values):
            metrics[key] = float(values.mean(dtype=np.float64))
    return metrics


def _counted(sample: SampleReport, positions: slice) -> np.ndarray:
    """The divergence of the sample's counted tokens at these positions."""
    first_counted = len(sample.completion_tokens) - sample.num_counted
    return sample.views.divergence[max(first_counted, positions.start) : positions.stop]
