"""The loss that trains: of one packed microbatch from hidden states, chunk by chunk. Exact, and no [T, V] ever exists.

Legend: T tokens of all completions of the microbatch laid end to end, n of them in a chunk; H hidden size; R rows of
the student's head, V of them count.

A token's terms depend on its own hidden state alone, so its gradient can be made in the same pass over its chunk, in
place of what the terms were made of, once it is known how much the token weighs in the loss. That is known where the
weights are given beforehand. Where they depend on the rest of the sequence (the mean mismatch ratio, the later
tokens' divergence), whole sequences share a chunk, and one longer than a chunk is passed over twice: first for its
terms, then for the gradient. The weights themselves are not this file's business: `loss_of` turns terms into a loss,
and its derivative on each token's terms is what that token weighs.

The backward pass only scales what the forward pass has made. Where few tokens meet a large head that has a place for
its gradient, the forward pass leaves the gradient on the logits, which is smaller, and the backward pass adds the
head's to its place.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sdft_ray.distill.chunks import FullChunk, TokenChunk, TopKChunk
from sdft_ray.distill.distributions import Head, TeacherRows, TopKRows, add_exact_product
from sdft_ray.distill.divergence import LossSettings, TargetName, check_name
from sdft_ray.distill.reduction import (
    LossOutput,
    TokenTerms,
    check_shapes,
    positions_in_use,
    reduce_terms,
    reduce_token_terms,
)

# Elements [n * V] of a chunk: rows enough for the matrix products, buffers small enough not to count.
CHUNK_ELEMENTS = {"cpu": 16 * 2**20, "cuda": 128 * 2**20}

Chunk = FullChunk | TokenChunk | TopKChunk


def fused_teacher_loss(
    *,
    student_hidden: Tensor,
    student_head: Head,
    teacher: TeacherRows,
    token_ids: Tensor,
    token_weights: Tensor,
    sequence_ids: Tensor,
    sampler_logprobs: Tensor,
    settings: LossSettings,
    num_vocab: int,
    chunk_rows: int = 0,
) -> LossOutput:
    """`reference_loss.teacher_loss` without its logits.

    Args:
        student_hidden: [T, H] after the final norm, carries the gradient; row t predicts token_ids[t].
        student_head: carries the gradient in its weight [R, H] and bias [R].
        teacher: of the same T tokens.
        token_ids: [T] long, in [0, num_vocab).
        token_weights: [T], >= 0, 0 where the token is not counted.
        sequence_ids: [T] long, sorted.
        sampler_logprobs: [T] in nats, at the same temperature; read only if settings.mismatch is not "none".
        settings: direction, estimator, temperature, correction.
        num_vocab: V, vocabulary rows that count, on both sides.
        chunk_rows: n; 0 chooses it by V and device.

    Returns:
        The loss with gradient, and the per-token quantities detached.

    Raises:
        ValueError: the shapes differ, or num_vocab exceeds the rows of either side.
    """
    check_shapes(token_ids, student_hidden=student_hidden[:, 0], token_weights=token_weights, sequence_ids=sequence_ids)

    divergence = settings.make_divergence()

    def open_chunk(logprobs: Tensor, rows: slice) -> Chunk:
        if isinstance(teacher, TopKRows):
            return TopKChunk(logprobs, teacher.part(rows), token_ids[rows], divergence)
        teacher_logprobs = _log_softmax(teacher.logits(rows, num_vocab), settings.temperature)
        return FullChunk(logprobs, teacher_logprobs, token_ids[rows], divergence)

    def loss_of(terms: TokenTerms, rows: slice) -> LossOutput:
        return reduce_terms(terms, token_weights[rows], sequence_ids[rows], sampler_logprobs[rows], settings)

    coupled = settings.mismatch == "sequence" or settings.estimator == "rao_blackwell"
    problem = _Problem(
        head=student_head,
        temperature=settings.temperature,
        num_vocab=num_vocab,
        open_chunk=open_chunk,
        loss_of=loss_of,
        in_use=positions_in_use(token_weights, sequence_ids, settings.estimator),
        units=_sequences(sequence_ids) if coupled else [1] * len(token_ids),
        chunk_rows=chunk_rows or default_chunk_rows(num_vocab, student_hidden.device),
    )
    return problem.solve(student_hidden)


def fused_token_loss(
    *,
    student_hidden: Tensor,
    student_head: Head,
    token_ids: Tensor,
    token_weights: Tensor,
    target: TargetName,
    temperature: float,
    num_vocab: int,
    chunk_rows: int = 0,
) -> LossOutput:
    """`reference_loss.token_loss` without its logits; the arguments are those of `fused_teacher_loss`."""
    check_name("target", target, TargetName)
    check_shapes(token_ids, student_hidden=student_hidden[:, 0], token_weights=token_weights)
    problem = _Problem(
        head=student_head,
        temperature=temperature,
        num_vocab=num_vocab,
        open_chunk=lambda logprobs, rows: TokenChunk(logprobs, token_ids[rows]),
        loss_of=lambda terms, rows: reduce_token_terms(terms, token_weights[rows], target),
        in_use=token_weights != 0,
        units=[1] * len(token_ids),
        chunk_rows=chunk_rows or default_chunk_rows(num_vocab, student_hidden.device),
    )
    return problem.solve(student_hidden)


def default_chunk_rows(num_vocab: int, device: torch.device) -> int:
    """The rows n of a chunk for a vocabulary of that size."""
    return max(1, CHUNK_ELEMENTS[device.type] // num_vocab)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Problem:
    """What the passes over the chunks need to know."""

    head: Head
    temperature: float
    num_vocab: int
    open_chunk: Callable[[Tensor, slice], Chunk]
    loss_of: Callable[[TokenTerms, slice], LossOutput]
    in_use: Tensor  # [T] bool: where the loss depends on the token's terms
    units: list[int]  # lengths of what must be reduced together, in order; they add up to T
    chunk_rows: int

    def solve(self, hidden: Tensor) -> LossOutput:
        return LossOutput.from_tuple(_FusedLoss.apply(hidden, self.head.weight, self.head.bias, self))

    def groups(self) -> Iterator[slice]:
        """Rows that are reduced together: as many whole units as fit a chunk, at least one."""
        begin = end = 0
        for length in self.units:
            if end > begin and end + length - begin > self.chunk_rows:
                yield slice(begin, end)
                begin = end
            end += length
        if end > begin or not self.units:
            yield slice(begin, end)

    def chunks(self, group: slice) -> list[slice]:
        """The group in pieces of at most `chunk_rows`; one without rows is one piece."""
        if group.stop - group.start <= self.chunk_rows:
            return [group]
        starts = range(group.start, group.stop, self.chunk_rows)
        return [slice(start, min(start + self.chunk_rows, group.stop)) for start in starts]

    def open(self, hidden: Tensor, rows: slice) -> tuple[Chunk, Tensor | float]:
        """The chunk's terms, and the slope of its logits through the head's scale, cap and temperature."""
        logits = self.head.logits(hidden[rows], self.num_vocab)
        slope = self.head.slope(logits) / self.temperature
        return self.open_chunk(_log_softmax(logits, self.temperature), rows), slope


class _FusedLoss(torch.autograd.Function):
    """hidden [T, H], weight [R, H] and bias [R] to the fields of LossOutput; only the loss has a gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, problem: _Problem) -> tuple[Tensor, ...]:
        gradient = _Gradient(hidden, weight, bias, problem) if any(ctx.needs_input_grad) else None
        outputs = [_solve_group(hidden, group, problem, gradient) for group in problem.groups()]
        ctx.gradient = gradient
        losses, *per_token = zip(*(output.as_tuple() for output in outputs), strict=True)
        results = (torch.stack(losses).sum().detach(), *(torch.cat(values) for values in per_token))
        ctx.mark_non_differentiable(*results[1:])
        return results

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("the fused loss has given its gradient away already: it can be asked for once")
        return (*gradient.scaled(grad_loss), None)


def _solve_group(hidden: Tensor, group: slice, problem: _Problem, gradient: "_Gradient | None") -> LossOutput:
    """The loss of the group's rows; adds their part to `gradient`."""
    pieces = problem.chunks(group)
    if len(pieces) == 1:
        chunk, slope = problem.open(hidden, group)
        output, upstream = _weigh(chunk.terms, group, problem)
        if gradient is not None:
            gradient.add(group, _masked(chunk.gradient(*upstream), group, problem), slope)
        return output
    parts = [problem.open(hidden, rows)[0].terms for rows in pieces]
    names = [field.name for field in fields(TokenTerms)]
    terms = TokenTerms(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
    output, upstream = _weigh(terms, group, problem)
    if gradient is not None:
        for rows in pieces:
            chunk, slope = problem.open(hidden, rows)
            within = slice(rows.start - group.start, rows.stop - group.start)
            of_terms = [None if values is None else values[within] for values in upstream]
            gradient.add(rows, _masked(chunk.gradient(*of_terms), rows, problem), slope)
    return output


def _weigh(terms: TokenTerms, rows: slice, problem: _Problem) -> tuple[LossOutput, tuple[Tensor | None, Tensor | None]]:
    """The loss of these terms, and its derivatives on the divergences and on the written tokens' logprobs."""
    divergence, logprobs = terms.divergence.requires_grad_(), terms.student_logprobs.requires_grad_()
    with torch.enable_grad():
        output = problem.loss_of(terms, rows)
        of_divergence, of_logprobs = torch.autograd.grad(output.loss, (divergence, logprobs), allow_unused=True)
    return output, (of_divergence, of_logprobs)


def _masked(gradient: Tensor, rows: slice, problem: _Problem) -> Tensor:
    """Exactly 0 where a token is not in use: its weight of 0 times a NaN would not be."""
    in_use = problem.in_use[rows]
    return gradient if in_use.all() else gradient.masked_fill_(~in_use.unsqueeze(-1), 0.0)


class _Gradient:
    """The gradient of the loss, added up chunk by chunk."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, problem: _Problem):
        self._inputs = (hidden.detach(), weight, bias)
        self._num_vocab = problem.num_vocab
        self._place = problem.head.gradient if len(hidden) * problem.num_vocab < weight.numel() else None
        self._of_logits: list[tuple[slice, Tensor]] = []  # [n, V] of every chunk, for the place
        exact = torch.promote_types(weight.dtype, torch.float32)
        sums_weight = weight.requires_grad and self._place is None
        self._of_hidden = torch.empty_like(hidden)
        self._of_weight = torch.zeros_like(weight, dtype=exact) if sums_weight else None
        self._of_bias = torch.zeros_like(bias, dtype=exact) if bias is not None else None

    def add(self, rows: slice, of_logits: Tensor, slope: Tensor | float) -> None:
        """Adds what `of_logits` [n, V], used up here, sends to the rows' hidden states and to the head."""
        _, weight, _ = self._inputs
        if isinstance(slope, Tensor) or slope != 1.0:
            of_logits *= slope
        if self._of_bias is not None:
            self._of_bias[: self._num_vocab] += of_logits.sum(0)
        of_logits = of_logits.to(weight.dtype)
        self._of_hidden[rows] = of_logits @ weight[: self._num_vocab]
        if self._place is not None:
            self._of_logits.append((rows, of_logits))
        elif self._of_weight is not None:
            self._add_to(self._of_weight, rows, of_logits)

    def scaled(self, factor: Tensor) -> tuple[Tensor | None, ...]:
        """Times `factor`, in the order and the dtypes of the inputs; None for what is in its place already."""
        if self._place is not None:
            place = self._place()
            for rows, of_logits in self._of_logits:
                self._add_to(place, rows, of_logits.mul_(factor))
        sums = (self._of_hidden, self._of_weight, self._of_bias)
        return tuple(
            None if total is None or value is None else total.to(value.dtype).mul_(factor)
            for total, value in zip(sums, self._inputs, strict=True)
        )

    def _add_to(self, total: Tensor, rows: slice, of_logits: Tensor) -> None:
        hidden, weight, _ = self._inputs
        add_exact_product(total[: self._num_vocab], of_logits.T, hidden[rows].to(weight.dtype))


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def _sequences(sequence_ids: Tensor) -> list[int]:
    """The lengths of the sequences, in order."""
    return torch.unique_consecutive(sequence_ids, return_counts=True)[1].tolist()
