"""What a step has to tell: of every token, of every microbatch, and the metrics of the whole.

Of the few samples that are reported, the most likely tokens where both sides disagree most are made of the hidden
states again: the loss itself keeps no distribution, and looking for the largest entry of every row would cost a pass
over each chunk of it.

Legend: T tokens of all completions of the microbatch, H hidden size, V vocabulary entries that count.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdft_ray.distill.distributions import Head, TeacherRows, TopKRows
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.records import (
    MatmulSeconds,
    Microbatch,
    RankReport,
    SampleReport,
    TokenViews,
    TopTokens,
    largest_positions,
)
from sdft_ray.tensors import to_tensor

Top = tuple[int, float]  # a token and its logprob [nats]
TopsBySequence = dict[int, tuple[TopTokens, ...]]

# Completion positions, from 0 at the first token; tokens without loss keep their places.
POSITION_BUCKETS = {
    "learner/divergence_first_nats": slice(0, 8),
    "learner/divergence_early_nats": slice(8, 32),
    "learner/divergence_middle_nats": slice(32, 128),
    "learner/divergence_last_nats": slice(128, None),
}


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
