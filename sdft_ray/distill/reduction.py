"""From per-token terms to the loss of one packed microbatch: weights, correction, gradient estimators.

Legend: T tokens of all completions of the microbatch laid end to end, without padding; p is the student's and
q the teacher's next-token distribution; y_t is the token written at position t. Everything is in nats.

    loss = sum_t token_weights_t * correction_t * term_t

`token_weights` [T] hold mask and normalisation over the GLOBAL batch (learner/schedule.py; 0 = not counted), so
losses and gradients ADD UP across microbatches, accumulation steps and ranks to those of one big batch. An
engine that averages over ranks or accumulation steps needs the loss multiplied by their number.

Nothing here sees a vocabulary: whatever computes the terms, from logits or from hidden states, shares this file.

`sequence_ids` [T] long is sorted and equal exactly for the tokens of one sequence; gaps in the numbering are allowed.
Sums within a sequence are differences of prefix sums and not scatter-adds: they need neither the number of sequences
(a wait for the GPU) nor atomics, whose order of addition changes from run to run. They are held in fp64, so that what
one sequence adds does not blur the next.

The sampler's kernels, and under staleness its weights, give the written token another probability than the trainer
does. The mismatch correction weighs for it by importance (docs/method.md; the authors' code is "sequence", clip 2.0).
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sdft_ray.distill.divergence import EstimatorName, LossSettings, TargetName


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTerms:
    """What the reduction has to know of each token; shapes [T], in nats.

    `divergence` (unless the estimator is sampled_token) and `student_logprobs` are connected to the student's
    graph.
    """

    divergence: Tensor
    """Over the full vocabulary, in the direction of the settings."""
    student_logprobs: Tensor
    """log p(y_t)."""
    teacher_logprobs: Tensor
    """log q(y_t), without gradient."""
    student_entropy: Tensor
    """H(p), without gradient."""
    teacher_entropy: Tensor
    """H(q), without gradient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOutput:
    """The loss of one microbatch, and per token [T], detached, what the metrics are made of.

    The per-token fields are filled at every position, counted or not; metrics choose by the token weights.
    """

    loss: Tensor
    """Scalar, connected to the student's graph also when nothing is counted; it is then exactly 0."""
    divergence: Tensor
    """The full-vocabulary divergence whatever the estimator; the NLL for token targets."""
    student_logprobs: Tensor
    """log p(y_t)."""
    teacher_logprobs: Tensor
    """log q(y_t); the student's own for token targets."""
    student_entropy: Tensor
    """H(p)."""
    teacher_entropy: Tensor
    """H(q); the student's own for token targets."""
    correction: Tensor
    """The mismatch weight of the token; 1 where there is none."""

    def as_tuple(self) -> tuple[Tensor, ...]:
        """The fields in their order: the form in which autograd and DeepSpeed find the tensors."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @classmethod
    def from_tuple(cls, values: tuple[Tensor, ...]) -> "LossOutput":
        """The inverse of `as_tuple`."""
        return cls(**{field.name: value for field, value in zip(fields(cls), values, strict=True)})


def reduce_terms(
    terms: TokenTerms,
    token_weights: Tensor,
    sequence_ids: Tensor,
    sampler_logprobs: Tensor,
    settings: LossSettings,
) -> LossOutput:
    """Weighs the per-token terms and sums them to the loss, whose gradient is that of the chosen estimator.

    With w_t = token_weights_t * correction_t, and KL_t the per-token divergence (arXiv 2601.19897, App. A.1):
    - analytic: sum_t w_t grad KL_t. Exact for each given prefix, low variance; leaves out that the student's
      earlier tokens choose the prefixes.
    - sampled_token: sum_t w_t [log p(y_t) - log q(y_t)] grad log p(y_t). Its expectation over y_t is
      analytic's; high variance.
    - rao_blackwell: sum_t w_t [grad KL_t + KL_t sum_{s<t} grad log p(y_s)], s over all earlier tokens of the
      sequence, also those not counted. Unbiased for the gradient of KL(student || teacher) between whole
      sequences when all weights of the batch are equal (token counts fixed, no correction). With
      "sequence_mean" the weight 1 / (B n_i) depends on the length, which the student's tokens decide: the
      estimate stays unbiased for fixed lengths only. Otherwise it holds the length constant, leaving out that
      the tokens from t on also decide n_i, and long sequences' KL is scaled down, so it is neither the
      sequence KL's gradient nor exactly the mean's.

    The value is the weighted divergence for analytic and rao_blackwell and its one-sample estimate for
    sampled_token: what only steers the gradient has value 0, so the curves of the estimators can be compared.

    Args:
        terms: per token [T], from logits or from anything else that computes them.
        token_weights: [T], >= 0.
        sequence_ids: [T] long, sorted.
        sampler_logprobs: [T] in nats; read only if settings.mismatch is not "none".
        settings: estimator and correction.

    Returns:
        The loss with gradient, and the per-token quantities detached.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(
        terms.student_logprobs,
        divergence=terms.divergence,
        teacher_logprobs=terms.teacher_logprobs,
        token_weights=token_weights,
        sequence_ids=sequence_ids,
        sampler_logprobs=sampler_logprobs,
    )
    correction = mismatch_correction(terms.student_logprobs, sampler_logprobs, token_weights, sequence_ids, settings)
    return LossOutput(
        loss=_estimate(terms, token_weights, correction, sequence_ids, settings.estimator),
        divergence=terms.divergence.detach(),
        student_logprobs=terms.student_logprobs.detach(),
        teacher_logprobs=terms.teacher_logprobs.detach(),
        student_entropy=terms.student_entropy.detach(),
        teacher_entropy=terms.teacher_entropy.detach(),
        correction=correction,
    )


def _estimate(
    terms: TokenTerms, token_weights: Tensor, correction: Tensor, sequence_ids: Tensor, estimator: EstimatorName
) -> Tensor:
    """The scalar whose gradient is the estimator's, by the formulas of `reduce_terms`."""
    counted = token_weights != 0
    weights = token_weights * correction
    score = terms.student_logprobs - terms.student_logprobs.detach()
    match estimator:
        case "analytic":
            return sum_where(counted, weights * terms.divergence)
        case "sampled_token":
            log_ratio = terms.student_logprobs.detach() - terms.teacher_logprobs.detach()
            log_ratio = log_ratio.where(counted, 0.0)
            return sum_where(counted, weights * log_ratio * (1.0 + score))
        case "rao_blackwell":
            weighted = (weights * terms.divergence.detach()).where(counted, 0.0)
            precedes_counted = sum_of_later(counted, sequence_ids) > 0
            later = sum_of_later(weighted, sequence_ids)
            analytic = sum_where(counted, weights * terms.divergence)
            return analytic + sum_where(precedes_counted, later * score)


def reduce_token_terms(terms: TokenTerms, token_weights: Tensor, target: TargetName) -> LossOutput:
    """The loss of given tokens without a teacher: sum_t token_weights_t * -log p(y_t), for "dft" times p(y_t).

    Args:
        terms: per token [T]; the divergence is -log p(y_t), the teacher's fields are the student's own.
        token_weights: [T], >= 0.
        target: "dft" detaches the factor p(y_t) (arXiv 2508.05629).

    Returns:
        The loss with gradient, and the per-token quantities detached.
    """
    nll = -terms.student_logprobs
    values = nll if target == "nll" else terms.student_logprobs.detach().exp() * nll
    return LossOutput(
        loss=sum_where(token_weights != 0, token_weights * values),
        divergence=nll.detach(),
        student_logprobs=terms.student_logprobs.detach(),
        teacher_logprobs=terms.teacher_logprobs.detach(),
        student_entropy=terms.student_entropy,
        teacher_entropy=terms.teacher_entropy,
        correction=torch.ones_like(nll.detach()),
    )


def positions_in_use(token_weights: Tensor, sequence_ids: Tensor, estimator: EstimatorName) -> Tensor:
    """Where the loss of `reduce_terms` depends on the student's distribution.

    Anything that computes terms must keep the gradient of the other positions at exactly 0, even if their
    logits are NaN or infinite: 0 * NaN in a backward pass would spread from there to every weight.

    Args:
        token_weights: [T], >= 0.
        sequence_ids: [T] long, sorted.
        estimator: rao_blackwell also uses the tokens before a counted one.

    Returns:
        [T] bool.
    """
    counted = token_weights != 0
    if estimator != "rao_blackwell":
        return counted
    return counted | (sum_of_later(counted, sequence_ids) > 0)


def sum_where(positions: Tensor, values: Tensor) -> Tensor:
    """Scalar sum of values [T] at positions [T]; the others add exactly 0 even if they are NaN."""
    return values.where(positions, 0.0).sum()


def check_shapes(reference: Tensor, **others: Tensor) -> None:
    """Refuses per-token tensors of another shape than the reference [T], which would broadcast silently."""
    for name, tensor in others.items():
        if tensor.shape != reference.shape:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)} for tokens of shape {list(reference.shape)}: "
                "give one entry per completion token"
            )


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


def sequence_sum(values: Tensor, sequence_ids: Tensor) -> Tensor:
    """The sum of the values over the whole sequence each token belongs to.

    Args:
        values: [T], floating or integer (an integer sum is exact).
        sequence_ids: [T] long, sorted.

    Returns:
        [T], the same number at every token of a sequence; dtype of `values`, int64 from bool.
    """
    prefix = _prefix_sums(values)
    starts = torch.searchsorted(sequence_ids, sequence_ids)
    ends = torch.searchsorted(sequence_ids, sequence_ids, right=True)
    return (prefix[ends] - prefix[starts]).to(_sum_dtype(values))


def sum_of_later(values: Tensor, sequence_ids: Tensor) -> Tensor:
    """The sum of the values at the later tokens of the same sequence, the token itself left out.

    Args:
        values: [T], floating or integer (an integer sum is exact).
        sequence_ids: [T] long, sorted.

    Returns:
        [T], 0 at the last token of a sequence (up to fp64 rounding); dtype of `values`, int64 from bool.
    """
    prefix = _prefix_sums(values)
    ends = torch.searchsorted(sequence_ids, sequence_ids, right=True)
    return (prefix[ends] - prefix[1:]).to(_sum_dtype(values))


def _prefix_sums(values: Tensor) -> Tensor:
    """[T + 1]: entry t is the sum of the first t values."""
    dtype = torch.float64 if values.is_floating_point() else torch.int64
    return torch.cat([torch.zeros(1, dtype=dtype, device=values.device), values.to(dtype).cumsum(0)])


def _sum_dtype(values: Tensor) -> torch.dtype:
    return values.dtype if values.is_floating_point() else torch.int64
