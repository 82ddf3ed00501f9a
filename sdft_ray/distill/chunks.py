"""The terms of a chunk of tokens from its logits, and their gradient, in closed form and in place.

Legend: n tokens of the chunk, V vocabulary entries that count, K candidates; p is the student's and q the teacher's
distribution, both at the sampling temperature; y the token that was written. Everything is in nats.

Three buffers [n, V] live at a time: nothing here is kept for a backward pass. A chunk's `terms` come first; its
`gradient` is asked for once, overwrites what the terms were made of, and is that on the student's logits divided by
the temperature. That of log p(y) is one_hot(y) - p; the divergences' own stand in `divergence.py`.
"""

import math

import torch
from torch import Tensor

from sdft_ray.distill.distributions import LOG_OF_ZERO, TopKRows, dot, entropy, gather_logprobs
from sdft_ray.distill.divergence import TokenDivergence
from sdft_ray.distill.reduction import TokenTerms


class TokenChunk:
    """The student alone: the likelihood of the written tokens."""

    def __init__(self, logprobs: Tensor, token_ids: Tensor):
        """Takes over `logprobs` [n, V] of the student; `token_ids` [n]."""
        self._token_ids = token_ids
        token_logprobs = gather_logprobs(logprobs, token_ids)
        self._probs = logprobs.exp()
        student_entropy = -dot(self._probs, logprobs)
        self.terms = TokenTerms(
            divergence=-token_logprobs,
            student_logprobs=token_logprobs,
            teacher_logprobs=token_logprobs,
            student_entropy=student_entropy,
            teacher_entropy=student_entropy,
        )

    def gradient(self, of_divergence: Tensor | None, of_logprobs: Tensor | None) -> Tensor:
        """See `FullChunk.gradient`; the divergence is -log p(y)."""
        upstream = _sum(of_logprobs, None if of_divergence is None else -of_divergence)
        if upstream is None:
            return self._probs.zero_()
        result = self._probs.mul_(-upstream.unsqueeze(-1))
        return result.scatter_add_(-1, self._token_ids.unsqueeze(-1), upstream.unsqueeze(-1))


class FullChunk:
    """Both distributions over the whole vocabulary."""

    def __init__(self, logprobs: Tensor, teacher_logprobs: Tensor, token_ids: Tensor, divergence: TokenDivergence):
        """Takes over `logprobs` [n, V] of the student and `teacher_logprobs` [n, V]; `token_ids` [n]."""
        self._divergence = divergence
        self._token_ids = token_ids
        token_logprobs = gather_logprobs(logprobs, token_ids)
        teacher_token_logprobs = gather_logprobs(teacher_logprobs, token_ids)
        teacher_probs = teacher_logprobs.exp()
        teacher_entropy = -dot(teacher_probs, teacher_logprobs)
        self._fused = divergence.fuse(logprobs, teacher_logprobs, teacher_probs)
        self.terms = TokenTerms(
            divergence=self._fused.value,
            student_logprobs=token_logprobs,
            teacher_logprobs=teacher_token_logprobs,
            student_entropy=-dot(self._fused.probs, logprobs),
            teacher_entropy=teacher_entropy,
        )

    def gradient(self, of_divergence: Tensor | None, of_logprobs: Tensor | None) -> Tensor:
        """The gradient on the logits, given that of the loss on each token's terms.

        Args:
            of_divergence: [n]; None for 0.
            of_logprobs: [n], on the student's logprob of the written token; None for 0.

        Returns:
            [n, V]
        """
        if of_divergence is None:
            result = self._fused.factor.zero_()
        else:
            result = self._divergence.gradient(self._fused, of_divergence)
        if of_logprobs is not None:
            result.addcmul_(self._fused.probs, of_logprobs.unsqueeze(-1), value=-1.0)
            result.scatter_add_(-1, self._token_ids.unsqueeze(-1), of_logprobs.unsqueeze(-1))
        return result


class TopKChunk:
    """The student over the whole vocabulary, the teacher's K most likely tokens, and one bucket for all others."""

    def __init__(self, logprobs: Tensor, teacher: TopKRows, token_ids: Tensor, divergence: TokenDivergence):
        """Takes over `logprobs` [n, V] of the student; `teacher` and `token_ids` are those of the same n tokens."""
        self._token_ids, self._ids = token_ids, teacher.ids
        token_logprobs = gather_logprobs(logprobs, token_ids)
        self._probs = logprobs.exp()
        student_entropy = -dot(self._probs, logprobs)
        candidates = logprobs.gather(-1, self._ids)
        rest = logprobs.scatter_(-1, self._ids, -math.inf).logsumexp(-1, keepdim=True).clamp(min=LOG_OF_ZERO)
        outcomes = torch.cat([candidates, rest], dim=-1).requires_grad_()
        teacher_outcomes = torch.cat([teacher.logprobs, teacher.tail_logprobs.unsqueeze(-1)], dim=-1)
        with torch.enable_grad():
            student_outcomes = outcomes
            if teacher.tail == "renormalize":
                student_outcomes = outcomes[:, :-1].log_softmax(-1)
                teacher_outcomes = teacher.logprobs.log_softmax(-1)
            value = divergence.value(student_outcomes, teacher_outcomes)
            (self._on_outcomes,) = torch.autograd.grad(value.sum(), outcomes)  # [n, K + 1]
        self._rest_prob = rest.exp()
        self.terms = TokenTerms(
            divergence=value.detach(),
            student_logprobs=token_logprobs,
            teacher_logprobs=teacher.token_logprobs,
            student_entropy=student_entropy,
            teacher_entropy=entropy(teacher_outcomes),
        )

    def gradient(self, of_divergence: Tensor | None, of_logprobs: Tensor | None) -> Tensor:
        """See `FullChunk.gradient`.

        With c_j the gradient on outcome j's logprob: c_j - p_j sum(c) at the candidates, and at every other token v
        p_v (c_rest / p_rest - sum(c)).
        """
        of_rest = torch.where(self._rest_prob > 0, self._on_outcomes[:, -1:] / self._rest_prob, 0.0)
        total = self._on_outcomes.sum(-1, keepdim=True)
        at_candidates = self._on_outcomes[:, :-1] - self._probs.gather(-1, self._ids) * total
        factor, at_token = of_rest - total, None
        if of_divergence is None:
            factor, at_candidates = torch.zeros_like(factor), torch.zeros_like(at_candidates)
        else:
            factor, at_candidates = factor * of_divergence.unsqueeze(-1), at_candidates * of_divergence.unsqueeze(-1)
        if of_logprobs is not None:
            at_token = of_logprobs.unsqueeze(-1)
            at_candidates -= self._probs.gather(-1, self._ids) * at_token
            factor = factor - at_token
        result = self._probs.mul_(factor).scatter_(-1, self._ids, at_candidates)
        return result if at_token is None else result.scatter_add_(-1, self._token_ids.unsqueeze(-1), at_token)


def _sum(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    return right if left is None else left if right is None else left + right
