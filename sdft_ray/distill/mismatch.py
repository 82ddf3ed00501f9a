"""The correction of the gap between the sampler's and the trainer's probabilities.

Legend: T tokens of all completions of the microbatch laid end to end, without padding.

The sampler's kernels, and under staleness its weights, give the written token another probability than the
trainer does; importance weights correct for it (docs/method.md; the authors' code is "sequence" with clip 2.0).
"""

import torch
from torch import Tensor

from sdft_ray.distill.packed import sequence_sum
from sdft_ray.distill.settings import LossSettings


def mismatch_correction(
    student_logprobs: Tensor,
    sampler_logprobs: Tensor,
    token_weights: Tensor,
    sequence_ids: Tensor,
    settings: LossSettings,
) -> Tensor:
    """The importance weight of each token, without gradient.

    ratio_t = min(exp(student_logprobs_t - sampler_logprobs_t), mismatch_clip); only tokens with
    token_weights_t != 0 count. By settings.mismatch:
    - none: 1.
    - token: ratio_t.
    - sequence: the mean of ratio_t over the counted tokens of the sequence, the same at each of its tokens.

    Args:
        student_logprobs: [T] in nats, of the written tokens under the weights in training.
        sampler_logprobs: [T] in nats, of the same tokens at the same temperature when they were drawn.
        token_weights: [T], >= 0.
        sequence_ids: [T] long, sorted.
        settings: mismatch and mismatch_clip are read.

    Returns:
        [T] in [0, mismatch_clip], or 1 for "none"; 1 where nothing counts, that is at uncounted tokens for
        "token" and in sequences without a counted token for "sequence".
    """
    if settings.mismatch == "none":
        return torch.ones_like(student_logprobs)
    counted = token_weights != 0
    ratios = (student_logprobs.detach() - sampler_logprobs.detach()).exp().clamp(max=settings.mismatch_clip)
    if settings.mismatch == "token":
        return ratios.where(counted, 1.0)
    num_counted = sequence_sum(counted, sequence_ids)
    means = sequence_sum(ratios.where(counted, 0.0), sequence_ids) / num_counted
    return means.where(num_counted > 0, 1.0)
