"""Next-token distributions: hidden states to logits, logits to logprobs, and what is known of the teacher's.

Legend: T tokens, n of them in a chunk, H hidden size, R rows of a head, V vocabulary entries that count, V <= R, K
candidates; `...` stands for any leading shape. Everything is in nats.

Sums are computed in fp32 at least (fp64 stays fp64). They take logprobs rather than probabilities, so a token of
probability 0 (logprob -inf, or -1e4 from a masked logit) adds exactly 0 to value and gradient instead of
0 * inf = NaN.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

# exp(-1e4) is exactly 0 in fp32 and fp64: a finite log 0 where an infinity would make gradients NaN.
LOG_OF_ZERO = -1e4

TailName = Literal["bucket", "renormalize"]


class Head(NamedTuple):
    """logits = softcap * tanh(scale * (hidden @ weight.T + bias) / softcap), without the tanh where softcap is 0.

    `scale` is Cohere's logit_scale and the inverse of Granite's logits_scaling, `softcap` Gemma's
    final_logit_softcapping.
    """

    weight: Tensor  # [R, H]
    bias: Tensor | None = None  # [R]
    scale: float = 1.0
    softcap: float = 0.0
    gradient: Callable[[], Tensor] | None = None  # [R, H] that the weight's gradient may be added to; else autograd's

    def logits(self, hidden: Tensor, num_vocab: int) -> Tensor:
        """The logits of the entries that count, before any temperature.

        Args:
            hidden: [n, H] after the final norm; multiplied in the head's dtype.
            num_vocab: V; the rows from there on are padding.

        Returns:
            [n, V], fp32 or fp64, a tensor of its own.

        Raises:
            ValueError: num_vocab exceeds the rows, or the hidden sizes differ.
        """
        self.check(hidden, num_vocab)
        weight = self.weight[:num_vocab]
        logits = exact_product(hidden.to(weight.dtype), weight.T)
        if self.bias is not None:
            logits += self.bias[:num_vocab]
        if self.scale != 1.0:
            logits *= self.scale
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def slope(self, logits: Tensor) -> Tensor | float:
        """The derivative of `logits` [n, V] by hidden @ weight.T + bias: [n, V], or one number for all."""
        if not self.softcap:
            return self.scale
        return (logits / self.softcap).square_().neg_().add_(1.0).mul_(self.scale)

    def check(self, hidden: Tensor, num_vocab: int) -> None:
        """Refuses what does not fit: `ValueError`."""
        num_rows, hidden_size = self.weight.shape
        if not 1 <= num_vocab <= num_rows:
            raise ValueError(
                f"num_vocab={num_vocab}, but the head has {num_rows} rows: give the number of rows that count "
                f"for student and teacher alike, in [1, {num_rows}]"
            )
        if hidden.shape[-1] != hidden_size:
            raise ValueError(f"hidden states of size {hidden.shape[-1]} for a head of size {hidden_size}")


def exact_product(left: Tensor, right: Tensor) -> Tensor:
    """The matrix product [n, m], whose sums are rounded to fp32 and no further where the hardware can do that.

    Tensor cores add up in fp32; torch rounds the sums to the dtype of the factors unless told otherwise, which it can
    be on a GPU only. A logit of 20 in bf16 is off by up to 0.06.
    """
    if left.is_cuda and left.dtype is torch.bfloat16:
        return torch.mm(left, right, out_dtype=torch.float32)
    product = left @ right
    return product.to(torch.promote_types(product.dtype, torch.float32))


def add_exact_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds `exact_product(left, right)` to `total`, in place and, if possible, without a product of its own."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif total.is_cuda and left.dtype is torch.bfloat16:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total += left @ right


def log_softmax_at(logits: Tensor, temperature: float, num_vocab: int) -> Tensor:
    """The logprobs a sampler at this temperature draws from, over the real vocabulary.

    Args:
        logits: [..., V_rows], any floating dtype, carries the gradient. V_rows may exceed num_vocab, because
            model heads are padded (Qwen2.5's has 151,936 or 152,064 rows by model size).
        temperature: in (0, inf); the logits are divided by it.
        num_vocab: rows that count, in [1, V_rows]. The rest hold no probability mass; student and teacher
            must be cut at the same number or mass is missing on one side only.

    Returns:
        Logprobs [..., num_vocab] in nats; fp32, or fp64 from fp64 logits.

    Raises:
        ValueError: temperature or num_vocab is out of range.
    """
    num_rows = logits.shape[-1]
    if not 1 <= num_vocab <= num_rows:
        raise ValueError(
            f"num_vocab={num_vocab}, but the logits have {num_rows} vocabulary rows: give the number of rows "
            f"that count for student and teacher alike, in [1, {num_rows}]"
        )
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be positive and finite, the sampler's own")
    return torch.log_softmax(in_fp32_at_least(logits[..., :num_vocab]) / temperature, dim=-1)


def gather_logprobs(logprobs: Tensor, token_ids: Tensor) -> Tensor:
    """The logprob of the token that was written at each position.

    Args:
        logprobs: [T, V] in nats.
        token_ids: [T] long, in [0, V).

    Returns:
        [T] in nats, connected to `logprobs`.

    Raises:
        ValueError: there is not one row of logprobs per token.
    """
    # torch's gather accepts fewer indices than rows, which would pair tokens with the wrong positions.
    if logprobs.shape[:-1] != token_ids.shape:
        raise ValueError(
            f"logprobs {list(logprobs.shape)} and token_ids {list(token_ids.shape)} disagree: give one row "
            "of logprobs per completion token"
        )
    return logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)


def entropy(logprobs: Tensor) -> Tensor:
    """H(p) = -sum_v p_v log p_v, in [0, log V] nats.

    Args:
        logprobs: [..., V] in nats.

    Returns:
        [...] in nats.
    """
    logprobs = in_fp32_at_least(logprobs)
    return -expectation(logprobs.exp(), logprobs)


def expectation(probabilities: Tensor, values: Tensor) -> Tensor:
    """sum_v P_v x_v [...], where P_v = 0 adds 0 to value and gradient even if x_v is infinite or NaN."""
    return (probabilities * values.masked_fill(probabilities == 0, 0.0)).sum(dim=-1)


def dot(left: Tensor, right: Tensor) -> Tensor:
    """sum_v left_v right_v [n] of two [n, V], without a product [n, V] in between."""
    return torch.einsum("nv,nv->n", left, right)


def in_fp32_at_least(tensor: Tensor) -> Tensor:
    """The tensor in fp32, or in fp64 if it came so: bf16 has 8 bits, too few to subtract logprobs."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class LogitsRows(NamedTuple):
    """The logits themselves, before any temperature."""

    values: Tensor  # [T, R]

    def logits(self, rows: slice, num_vocab: int) -> Tensor:
        """[n, V] in fp32 at least."""
        logits = self.values[rows, :num_vocab]
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).clamp(min=LOG_OF_ZERO)


class HiddenRows(NamedTuple):
    """Hidden states after the final norm, and the head that turns them into logits."""

    hidden: Tensor  # [T, H]
    head: Head

    def logits(self, rows: slice, num_vocab: int) -> Tensor:
        """[n, V] in fp32 at least."""
        return self.head.logits(self.hidden[rows], num_vocab)


class JoinedRows(NamedTuple):
    """Rows of several weight versions, one after the other, each with the head of its version."""

    parts: Sequence[HiddenRows]

    def logits(self, rows: slice, num_vocab: int) -> Tensor:
        """[n, V] in fp32 at least."""
        pieces, start = [], 0
        for part in self.parts:
            begin, end = max(rows.start - start, 0), min(rows.stop - start, len(part.hidden))
            if begin < end:
                pieces.append(part.logits(slice(begin, end), num_vocab))
            start += len(part.hidden)
        return torch.cat(pieces)


class TopKRows(NamedTuple):
    """The teacher's K most likely tokens, at the sampling temperature, and how the rest is accounted for."""

    ids: Tensor  # [T, K] long
    logprobs: Tensor  # [T, K] nats
    tail_logprobs: Tensor  # [T] nats: all other tokens together
    token_logprobs: Tensor  # [T] nats: the token that was written
    tail: TailName  # "bucket" keeps the rest as one more outcome, "renormalize" leaves it out on both sides

    def part(self, rows: slice) -> "TopKRows":
        """The same of some tokens."""
        return TopKRows(
            self.ids[rows], self.logprobs[rows], self.tail_logprobs[rows], self.token_logprobs[rows], self.tail
        )


FullRows = LogitsRows | HiddenRows | JoinedRows
TeacherRows = FullRows | TopKRows
