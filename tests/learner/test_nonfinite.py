"""Where a NaN or an infinity is said to be."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from sdft_ray.distill.distributions import Head, HiddenRows, JoinedRows, LogitsRows, TeacherRows, TopKRows
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.learner import nonfinite
from sdft_ray.learner.nonfinite import find_nonfinite, remedy_of, worst_of
from sdft_ray.records import Microbatch

NUM_VOCAB = 7


@dataclass(kw_only=True)
class Pass:
    """One forward pass over two sequences of two and three tokens, which a test breaks somewhere."""

    hidden: torch.Tensor
    head: Head
    teacher: TeacherRows
    output: LossOutput
    microbatch: Microbatch


def sound() -> Pass:
    numbers = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=numbers)

    values = torch.arange(5.0)
    return Pass(
        hidden=normal(5, 3),
        head=Head(normal(NUM_VOCAB, 3)),
        teacher=HiddenRows(normal(5, 3), Head(normal(NUM_VOCAB, 3))),
        output=LossOutput.from_tuple((torch.tensor(1.0), *[values.clone() for _ in range(6)])),
        microbatch=Microbatch(
            example_ids=("a", "b"),
            input_ids=np.arange(5),
            position_ids=np.arange(5),
            predictor_index=np.arange(5),
            completion_ids=np.arange(5),
            sequence_ids=np.array([0, 0, 1, 1, 1]),
            token_weights=np.ones(5, dtype=np.float32),
            sampler_logprobs=np.zeros(5, dtype=np.float32),
            payloads=(None, None),
            teacher_versions=(0, 0),
        ),
    )


def found(broken: Pass) -> dict[int, str]:
    teacher = broken.teacher
    return find_nonfinite(broken.output, broken.hidden, broken.head, teacher, broken.microbatch, NUM_VOCAB)


def of_teacher(rows: TeacherRows) -> Callable[[Pass], None]:
    return lambda one: setattr(one, "teacher", rows)


def broken_rows(width: int, value: float = math.nan) -> torch.Tensor:
    """[5, width] with one bad value, in the second sequence."""
    rows = torch.zeros(5, width)
    rows[3, 1] = value
    return rows


def break_student(one: Pass) -> None:
    one.hidden[3, 1] = math.inf


def overflow_logits(one: Pass) -> None:
    one.hidden[3] = one.head.weight[2].sign() * 3e38


def break_sampler(one: Pass) -> None:
    one.microbatch.sampler_logprobs[4] = np.nan


def break_divergence(one: Pass) -> None:
    one.output.divergence[2] = math.nan


SOUND_HEAD = Head(torch.ones(NUM_VOCAB, 3))
TOP = torch.zeros(5, 2)


@pytest.mark.parametrize(
    ("breaks", "place"),
    [
        (break_student, nonfinite.STUDENT_HIDDEN),
        (overflow_logits, nonfinite.STUDENT_LOGITS),
        (of_teacher(LogitsRows(broken_rows(NUM_VOCAB))), nonfinite.TEACHER),
        (of_teacher(LogitsRows(broken_rows(NUM_VOCAB, math.inf))), nonfinite.TEACHER),
        (of_teacher(HiddenRows(broken_rows(3, -math.inf), SOUND_HEAD)), nonfinite.TEACHER),
        (of_teacher(TopKRows(TOP.long(), broken_rows(2), TOP[:, 0], TOP[:, 0], "bucket")), nonfinite.TEACHER),
        (break_sampler, nonfinite.SAMPLER),
        (break_divergence, nonfinite.LOSS),
    ],
)
def test_the_place_is_told_of_the_sequence_in_which_it_is(breaks: Callable[[Pass], None], place: str) -> None:
    one = sound()
    breaks(one)
    assert found(one) == {1: place}


def test_a_broken_head_breaks_every_sequence_that_is_computed_with_it() -> None:
    broken = Head(torch.full((NUM_VOCAB, 3), math.nan))
    assert set(found(replace(sound(), head=broken)).values()) == {nonfinite.STUDENT_HEAD}
    parts = [HiddenRows(torch.zeros(2, 3), SOUND_HEAD), HiddenRows(torch.zeros(3, 3), broken)]
    assert found(replace(sound(), teacher=JoinedRows(parts))) == {1: nonfinite.TEACHER_HEAD}


def test_a_loss_that_no_tensor_explains_is_that_of_every_sample() -> None:
    one = sound()
    assert found(replace(one, output=replace(one.output, loss=torch.tensor(math.inf)))) == dict.fromkeys(
        (0, 1), nonfinite.LOSS
    )


def test_a_token_that_cannot_be_is_nothing_broken_in_the_teachers_logits() -> None:
    one = sound()
    one.teacher = LogitsRows(broken_rows(NUM_VOCAB, -math.inf))
    break_divergence(one)
    assert found(one) == {1: nonfinite.LOSS}


def test_a_broken_weight_explains_what_is_computed_with_it() -> None:
    weight = nonfinite.weight_place("model.norm.weight")
    assert worst_of([nonfinite.TEACHER, weight, nonfinite.LOSS]) == weight
    assert worst_of([nonfinite.TEACHER, nonfinite.LOSS]) == nonfinite.TEACHER


def test_what_the_teacher_computes_is_not_mended_by_a_learning_rate() -> None:
    assert "learning_rate" in remedy_of(nonfinite.LOSS) and "learning_rate" not in remedy_of(nonfinite.TEACHER)
