"""What a rank has to tell of a step: of every token and of every microbatch.

Of the few samples that are reported, the most likely tokens where both sides disagree most are made of the hidden
states again: the loss itself keeps no distribution, and looking for the largest entry of every row would cost a pass
over each chunk of it.

Legend: T tokens of all completions of the microbatch, H hidden size, V vocabulary entries that count.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdft_ray.distill.distributions import Head, TeacherRows, TopKRows
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.records import (
    Microbatch,
    RankReport,
    TokenViews,
    TopTokens,
    largest_positions,
)
from sdft_ray.tensors import to_tensor

Top = tuple[int, float]  # a token and its logprob [nats]
TopsBySequence = dict[int, tuple[TopTokens, ...]]


@dataclass(frozen=True, slots=True)
class TokenSums:
    """Sums over the counted tokens of one microbatch, and the divergence of every token."""

    counted_tokens: int
    loss: float
    divergence: float
    student_entropy: float
    teacher_entropy: float
    correction: float
    mismatch_max: float


def token_sums(output: LossOutput, microbatch: Microbatch) -> TokenSums:
    """What the metrics need of one microbatch."""
    counted = to_tensor(microbatch.token_weights) > 0
    mismatch = (output.student_logprobs.cpu() - to_tensor(microbatch.sampler_logprobs)).abs()[counted]

    def total(values: torch.Tensor) -> float:
        return values.cpu()[counted].double().sum().item()

    return TokenSums(
        counted_tokens=int(counted.sum()),
        loss=output.loss.item(),
        divergence=total(output.divergence),
        student_entropy=total(output.student_entropy),
        teacher_entropy=total(output.teacher_entropy),
        correction=total(output.correction),
        mismatch_max=mismatch.max().item() if len(mismatch) else 0.0,
    )


def views_by_sample(
    output: LossOutput, tops: TopsBySequence, nonfinite: Mapping[int, str], microbatch: Microbatch
) -> list[TokenViews]:
    """What both sides make of the tokens of each sample of the microbatch."""
    ends = np.bincount(microbatch.sequence_ids, minlength=len(microbatch.example_ids)).cumsum()[:-1]

    def split(values: torch.Tensor) -> list[np.ndarray]:
        return np.split(values.float().cpu().numpy(), ends)

    def of_teacher(values: torch.Tensor) -> list[np.ndarray]:
        scored = split(values)
        return [part if payload is not None else part[:0] for part, payload in zip(scored, payloads, strict=True)]

    payloads = microbatch.payloads
    columns = zip(
        split(output.divergence),
        split(output.student_logprobs),
        of_teacher(output.teacher_logprobs),
        split(output.student_entropy),
        of_teacher(output.teacher_entropy),
        strict=True,
    )
    return [
        TokenViews(
            divergence=divergence,
            student_logprobs=student_logprobs,
            teacher_logprobs=teacher_logprobs,
            student_entropy=student_entropy,
            teacher_entropy=teacher_entropy,
            tops=tops.get(sequence, ()),
            nonfinite=nonfinite.get(sequence, ""),
        )
        for sequence, (divergence, student_logprobs, teacher_logprobs, student_entropy, teacher_entropy) in enumerate(
            columns
        )
    ]


@torch.no_grad()
def top_tokens(
    microbatch: Microbatch,
    *,
    divergence: Tensor,
    hidden: Tensor,
    head: Head,
    teacher: TeacherRows | None,
    num_vocab: int,
    temperature: float,
) -> dict[int, tuple[TopTokens, ...]]:
    """The most likely token of both sides at the largest divergences of every reported sequence, by sequence.

    Args:
        microbatch: names the reported sequences.
        divergence: [T]
        hidden: [T, H] of the student.
        head: the student's.
        teacher: of the same T tokens; None where nothing was scored.
        num_vocab: V.
        temperature: of both distributions.
    """
    found = {}
    for sequence in microbatch.reported:
        rows = np.flatnonzero(microbatch.sequence_ids == sequence)
        positions = largest_positions(divergence[rows[0] : rows[-1] + 1].float().cpu().numpy())
        chosen = rows[positions].tolist()
        of_student = _top_of(head.logits(hidden[chosen], num_vocab), temperature)
        of_teacher = _teachers(teacher, chosen, num_vocab, temperature) if teacher is not None else [None] * len(chosen)
        found[sequence] = tuple(
            TopTokens(position=position, student=student, teacher=theirs)
            for position, student, theirs in zip(positions, of_student, of_teacher, strict=True)
        )
    return found


def _teachers(teacher: TeacherRows, rows: list[int], num_vocab: int, temperature: float) -> Iterator[Top]:
    if isinstance(teacher, TopKRows):
        for row in rows:
            best = int(teacher.logprobs[row].argmax())
            yield int(teacher.ids[row, best]), float(teacher.logprobs[row, best])
        return
    for row in rows:
        yield from _top_of(teacher.logits(slice(row, row + 1), num_vocab), temperature)


def _top_of(logits: Tensor, temperature: float) -> Iterator[Top]:
    logprobs, ids = torch.log_softmax(logits / temperature, dim=-1).max(dim=-1)
    yield from zip(ids.tolist(), logprobs.tolist(), strict=True)


class OpenStep:
    """What a rank has accumulated since its last optimizer step."""

    def __init__(self) -> None:
        self.example_ids: list[str] = []
        self.sums: list[TokenSums] = []  # of every microbatch
        self._input_tokens = 0
        self._sequence_tokens = 0
        self._head_rows = 0
        self._forward_backward_s = 0.0

    def add(self, microbatch: Microbatch, sums: TokenSums, seconds: float) -> None:
        """Adds a microbatch, its sums and the time it took."""
        self.example_ids += microbatch.example_ids
        self.sums.append(sums)
        self._input_tokens += len(microbatch.input_ids)
        self._sequence_tokens += num_sequence_tokens(microbatch.position_ids)
        self._head_rows += len(microbatch.predictor_index)
        self._forward_backward_s += seconds

    def report(self, grad_norm: float, *, optimizer_s: float, ema_s: float) -> RankReport:
        """What the rank tells once the step is taken."""
        return RankReport(
            input_tokens=self._input_tokens,
            head_rows=self._head_rows,
            sequence_tokens=self._sequence_tokens,
            counted_tokens=sum(part.counted_tokens for part in self.sums),
            loss=math.fsum(part.loss for part in self.sums),
            divergence=math.fsum(part.divergence for part in self.sums),
            student_entropy=math.fsum(part.student_entropy for part in self.sums),
            teacher_entropy=math.fsum(part.teacher_entropy for part in self.sums),
            correction=math.fsum(part.correction for part in self.sums),
            mismatch_max=max(part.mismatch_max for part in self.sums),
            grad_norm=grad_norm,
            durations_s={
                "learner/forward_backward_s": self._forward_backward_s,
                "learner/optimizer_s": optimizer_s,
                "learner/ema_s": ema_s,
            },
        )


def num_sequence_tokens(position_ids: np.ndarray) -> int:
    """The lengths of all sequences of a pack [N] added up, a common prefix counted in each of them."""
    is_last = np.append(position_ids[1:] != position_ids[:-1] + 1, True)
    return int((position_ids[is_last] + 1).sum())
