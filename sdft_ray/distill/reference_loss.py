"""The reference loss of one packed microbatch, from its logits. It does not train: `fused_loss.py` does.

The plain definition that the tests hold the fused loss against, and that the benchmarks compare it with.

Legend: T tokens of all completions of the microbatch laid end to end, without padding; V vocabulary rows; p
is the student's and q the teacher's next-token distribution; y_t is the token written at position t.
Everything is in nats. What token_weights hold, and how losses add up, stands at the top of reduction.py.
"""

import torch
from torch import Tensor

from sdft_ray.distill.distributions import entropy, gather_logprobs, log_softmax_at
from sdft_ray.distill.divergence import LossSettings, TargetName, check_name
from sdft_ray.distill.reduction import (
    LossOutput,
    TokenTerms,
    check_shapes,
    positions_in_use,
    reduce_terms,
    reduce_token_terms,
)


def teacher_loss(
    *,
    student_logits: Tensor,
    teacher_logits: Tensor,
    token_ids: Tensor,
    token_weights: Tensor,
    sequence_ids: Tensor,
    sampler_logprobs: Tensor,
    settings: LossSettings,
    num_vocab: int,
) -> LossOutput:
    """The weighted divergence between student and teacher over one packed microbatch.

    Args:
        student_logits: [T, V_student], any floating dtype, carries the gradient; row t predicts token_ids[t].
        teacher_logits: [T, V_teacher] for the same token ids; the two may be padded to different sizes.
        token_ids: [T] long, in [0, num_vocab).
        token_weights: [T], >= 0, 0 where the token is not counted.
        sequence_ids: [T] long, sorted.
        sampler_logprobs: [T] in nats, at the same temperature; read only if settings.mismatch is not "none".
        settings: direction, estimator, temperature, correction.
        num_vocab: vocabulary rows that count, on both sides.

    Returns:
        The loss with gradient, and the per-token quantities detached.

    Raises:
        ValueError: the shapes differ, or num_vocab exceeds the rows of either side.
    """
    check_shapes(token_ids, student_logits=student_logits[:, 0], token_weights=token_weights, sequence_ids=sequence_ids)
    counted = token_weights != 0
    in_use = positions_in_use(token_weights, sequence_ids, settings.estimator)
    student_logits = _with_gradient_only_at(in_use, student_logits)
    student_logprobs = log_softmax_at(student_logits, settings.temperature, num_vocab)
    teacher_logprobs = log_softmax_at(teacher_logits.detach(), settings.temperature, num_vocab)
    # The divergence sends no gradient where a token is not counted: an infinity there would make 0 * inf =
    # NaN. For sampled_token it sends none at all, and without a graph the full sum needs less memory.
    with torch.set_grad_enabled(torch.is_grad_enabled() and settings.estimator != "sampled_token"):
        divergences = settings.make_divergence().value(
            _with_gradient_only_at(counted, student_logprobs), teacher_logprobs
        )
    terms = TokenTerms(
        divergence=divergences,
        student_logprobs=gather_logprobs(student_logprobs, token_ids),
        teacher_logprobs=gather_logprobs(teacher_logprobs, token_ids),
        student_entropy=entropy(student_logprobs.detach()),
        teacher_entropy=entropy(teacher_logprobs),
    )
    return reduce_terms(terms, token_weights, sequence_ids, sampler_logprobs, settings)


def token_loss(
    *,
    student_logits: Tensor,
    token_ids: Tensor,
    token_weights: Tensor,
    target: TargetName,
    temperature: float,
    num_vocab: int,
) -> LossOutput:
    """The weighted loss of given tokens over one packed microbatch, without a teacher.

    Args:
        student_logits: [T, V_student], any floating dtype, carries the gradient; row t predicts token_ids[t].
        token_ids: [T] long, in [0, num_vocab).
        token_weights: [T], >= 0, 0 where the token is not counted.
        target: "nll" is -log p(y_t); "dft" is -p(y_t).detach() * log p(y_t), Dynamic Fine-Tuning (arXiv
            2508.05629).
        temperature: > 0, divides the logits.
        num_vocab: vocabulary rows that count.

    Returns:
        The loss with gradient, and the per-token quantities detached.

    Raises:
        ValueError: the target is unknown, the shapes differ, or num_vocab exceeds the rows.
    """
    check_name("target", target, TargetName)
    check_shapes(token_ids, student_logits=student_logits[:, 0], token_weights=token_weights)
    counted = token_weights != 0
    logprobs = log_softmax_at(_with_gradient_only_at(counted, student_logits), temperature, num_vocab)
    token_logprobs = gather_logprobs(logprobs, token_ids)
    student_entropy = entropy(logprobs.detach())
    terms = TokenTerms(
        divergence=-token_logprobs,
        student_logprobs=token_logprobs,
        teacher_logprobs=token_logprobs.detach(),
        student_entropy=student_entropy,
        teacher_entropy=student_entropy,
    )
    return reduce_token_terms(terms, token_weights, target)


def _with_gradient_only_at(positions: Tensor, values: Tensor) -> Tensor:
    """The same values [T, V], with gradient exactly 0 outside `positions` [T], also where it would be NaN."""
    return torch.where(positions.unsqueeze(-1), values, values.detach())
