"""The loss of one microbatch on one rank: open the payloads, run the student, compare the two distributions.

Of the few samples that are reported, the most likely tokens where both sides disagree most are made of the hidden
states again: the loss itself keeps no distribution, and looking for the largest entry of every row would cost a pass
over each chunk of it.

Legend: T tokens of all completions of the microbatch, H hidden size, V vocabulary entries that count.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdft_ray.config import LossConfig, Tail, Target
from sdft_ray.distill.fused_loss import fused_teacher_loss, fused_token_loss
from sdft_ray.distill.head import Head
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.distill.settings import LossSettings
from sdft_ray.distill.teacher_rows import TeacherRows, TopKRows
from sdft_ray.errors import NonFiniteError
from sdft_ray.learner.student import Forward
from sdft_ray.learner.teacher import TeacherHeads, open_payloads
from sdft_ray.records import Microbatch, TokenViews, TopTokens, largest_positions
from sdft_ray.tensors import to_tensor

Top = tuple[int, float]  # a token and its logprob [nats]
TopsBySequence = dict[int, tuple[TopTokens, ...]]

TOKEN_TARGETS = {Target.TOKEN: "nll", Target.TOKEN_DFT: "dft"}


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


class Objective:
    """What the student minimises, for every method: a divergence to the teacher, or the likelihood of tokens."""

    def __init__(
        self,
        *,
        target: Target,
        loss: LossConfig,
        tail: Tail,
        temperature: float,
        num_tokens: int,
        heads: TeacherHeads,
        device: torch.device,
    ):
        """`num_tokens` vocabulary rows count on both sides; rows beyond them are padding.

        `temperature` is the sampler's. Token targets are not compared with what a sampler drew, so theirs is 1.
        """
        temperature = 1.0 if target in TOKEN_TARGETS else temperature
        self._target = target
        self._tail = tail
        self._temperature = temperature
        self._num_tokens = num_tokens
        self._heads = heads
        self._device = device
        self._settings = LossSettings(
            divergence=loss.divergence.name.lower(),
            jsd_beta=loss.jsd_beta,
            estimator=loss.estimator.name.lower(),  # type: ignore[arg-type]
            temperature=temperature,
            mismatch=loss.mismatch.name.lower(),  # type: ignore[arg-type]
            mismatch_clip=loss.mismatch_clip,
        )

    def __call__(self, forward: Forward, microbatch: Microbatch) -> tuple[LossOutput, TopsBySequence]:
        """Runs the student on `microbatch` by its `forward`.

        Returns:
            The loss, connected to the student's graph, and the top tokens of the reported sequences.
        """
        teacher = None
        if self._target not in TOKEN_TARGETS:
            teacher = open_payloads(microbatch, self._heads, self._tail.name.lower(), self._device)  # type: ignore[arg-type]
        tops: TopsBySequence = {}

        def loss_of(hidden: torch.Tensor, head: Head) -> LossOutput:
            output = self._loss(hidden, head, teacher, microbatch)
            # Here, since only here the head is sure to be whole: under ZeRO 3 it is gathered for the loss alone.
            tops.update(
                top_tokens(
                    microbatch,
                    divergence=output.divergence,
                    hidden=hidden,
                    head=head,
                    teacher=teacher,
                    num_vocab=self._num_tokens,
                    temperature=self._temperature,
                )
            )
            return output

        fields = forward(
            input_ids=self._tensor(microbatch.input_ids),
            position_ids=self._tensor(microbatch.position_ids),
            predictor_index=self._tensor(microbatch.predictor_index),
            loss_of=loss_of,
        )
        return LossOutput.from_tuple(fields), tops

    def _loss(
        self, hidden: torch.Tensor, head: Head, teacher: TeacherRows | None, microbatch: Microbatch
    ) -> LossOutput:
        given = {
            "student_hidden": hidden,
            "student_head": head,
            "token_ids": self._tensor(microbatch.completion_ids),
            "token_weights": self._tensor(microbatch.token_weights),
            "num_vocab": self._num_tokens,
        }
        if teacher is None:
            target = TOKEN_TARGETS[self._target]
            return fused_token_loss(target=target, temperature=self._temperature, **given)  # type: ignore[arg-type]
        return fused_teacher_loss(
            teacher=teacher,
            sequence_ids=self._tensor(microbatch.sequence_ids),
            sampler_logprobs=self._tensor(microbatch.sampler_logprobs),
            settings=self._settings,
            **given,  # type: ignore[arg-type]
        )

    def _tensor(self, array: Any) -> torch.Tensor:
        return to_tensor(array).to(self._device)


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


def views_by_sample(output: LossOutput, tops: TopsBySequence, microbatch: Microbatch) -> list[TokenViews]:
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
        )
        for sequence, (divergence, student_logprobs, teacher_logprobs, student_entropy, teacher_entropy) in enumerate(
            columns
        )
    ]


def check_loss(loss: torch.Tensor, by_sample: list[TokenViews], microbatch: Microbatch, step: int) -> None:
    """Refuses a loss that is not finite.

    Raises:
        NonFiniteError: names the samples whose divergences are not finite, or all where it is none of these.
    """
    if torch.isfinite(loss):
        return
    guilty = [
        example_id
        for example_id, views in zip(microbatch.example_ids, by_sample, strict=True)
        if not np.isfinite(views.divergence).all()
    ]
    raise NonFiniteError("loss", step, guilty or microbatch.example_ids)


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
