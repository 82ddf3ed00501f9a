"""What the learner knows of the teacher at every completion token, in the forms a payload can have.

Legend: T completion tokens, n of them in a chunk, R rows of a head, V of them count, K candidates, H hidden size.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sdft_ray.distill.distributions import LOG_OF_ZERO
from sdft_ray.distill.head import Head

TailName = Literal["bucket", "renormalize"]


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
