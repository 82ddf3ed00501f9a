"""The moving average against its closed form, and against the bf16 loop that silently stands still."""

import math

import pytest
import torch

from sdft_ray.weights.fragments import blend

NUM_STEPS, EMA_DECAY = 300, 0.99
CLOSED = 1.0 - EMA_DECAY**NUM_STEPS


def weights_a_few_bf16_spacings_apart() -> tuple[torch.Tensor, torch.Tensor]:
    """Student and teacher in [1, 2), where bf16 is spaced by 2**-7, between 1 and 5 spacings apart."""
    generator = torch.Generator().manual_seed(0)
    teacher = (1.0 + torch.rand(1000, generator=generator) / 2).bfloat16().float()
    student = teacher + 2.0**-7 * torch.randint(1, 6, (1000,), generator=generator)
    return student, teacher


def share_of_gap_closed(student: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> float:
    return ((end.float() - start) / (student - start)).mean().item()


def test_an_fp32_average_closes_the_gap_it_should():
    student, start = weights_a_few_bf16_spacings_apart()
    ema = start.clone()
    for _ in range(NUM_STEPS):
        blend(ema, student, EMA_DECAY)
    assert share_of_gap_closed(student, start, ema) == pytest.approx(CLOSED, abs=1e-3)


def test_a_bf16_average_would_close_only_a_few_percent_of_the_gap():
    student, start = weights_a_few_bf16_spacings_apart()
    ema = start.bfloat16()
    for _ in range(NUM_STEPS):
        ema.mul_(EMA_DECAY).add_(student.bfloat16(), alpha=1.0 - EMA_DECAY)
    assert abs(share_of_gap_closed(student, start, ema)) < 0.10


def test_ema_decay_is_the_share_of_the_old_teacher():
    ema, student = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.0])
    blend(ema, student, 0.9)
    torch.testing.assert_close(ema, torch.tensor([1.1, -1.8]))
    assert student.tolist() == [2.0, 0.0]


def test_the_ends_are_exactly_frozen_and_live():
    student, start = weights_a_few_bf16_spacings_apart()
    student = student * math.pi
    frozen, live = start.clone(), start.clone()
    blend(frozen, student, 1.0)
    blend(live, student, 0.0)
    assert torch.equal(frozen, start)
    assert torch.equal(live, student)


def test_an_average_that_has_arrived_does_not_drift_by_a_bit():
    start = weights_a_few_bf16_spacings_apart()[1] * math.pi
    ema = start.clone()
    for _ in range(NUM_STEPS):
        blend(ema, start, EMA_DECAY)
    assert torch.equal(ema, start)


def test_a_bf16_student_is_blended_in_fp32_without_graph():
    ema = torch.zeros(2)
    student = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    blend(ema, student, 0.999)
    torch.testing.assert_close(ema, torch.tensor([0.001, 0.002]))
    assert not ema.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_an_average_in_another_dtype_than_fp32_is_refused_with_the_reason(dtype):
    ema = torch.zeros(2, dtype=dtype)
    with pytest.raises(TypeError, match="1 % is rounded away"):
        blend(ema, torch.ones(2), 0.99)
    assert ema.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("ema_decay", [-0.01, 1.01, math.nan])
def test_an_ema_decay_outside_zero_and_one_is_refused(ema_decay):
    with pytest.raises(ValueError, match="ema_decay="):
        blend(torch.zeros(2), torch.ones(2), ema_decay)


def test_an_empty_zero3_shard_is_refused_instead_of_broadcast():
    with pytest.raises(ValueError, match="ZeRO-3"):
        blend(torch.zeros(2, 3), torch.ones(1), 0.99)
