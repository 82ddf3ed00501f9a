"""The average of what an adapter does stays beside the exact one, where averages of its factors do not."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from sdft_ray.config import AdapterConfig, AdapterKind
from sdft_ray.learner.adapter_average import AdapterAverage
from sdft_ray.models.adapter import averaged, factor_pairs
from sdft_ray.models.state import A, B
from sdft_ray.weights.fragments import Fragment

ADAPTER = AdapterConfig(kind=AdapterKind.LORA, rank=4)
OUT, IN, DECAY, NUM_STEPS = 24, 32, 0.95, 40
SHAPES = (("layers.0.q_proj" + A, (4, IN)), ("layers.0.q_proj" + B, (OUT, 4)))
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trajectory() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A and B as training moves them: A from what is drawn, B from zero, by steps that keep most of their direction."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(4, IN, generator=generator) / IN**0.5, torch.zeros(OUT, 4)
    moves = torch.randn(4, IN, generator=generator), torch.randn(OUT, 4, generator=generator)
    yield first, second
    for _ in range(NUM_STEPS):
        moves = tuple(0.9 * move + 0.4 * torch.randn(move.shape, generator=generator) for move in moves)  # type: ignore[assignment]
        first, second = first + 0.004 * moves[0].sign(), second + 0.004 * moves[1].sign()
        yield first, second


def fragments(first: torch.Tensor, second: torch.Tensor) -> list[Fragment]:
    return [
        Fragment(name, 0, value.contiguous().view(-1)) for (name, _), value in zip(SHAPES, (first, second), strict=True)
    ]


def make_average(ema_decay: float = DECAY, rank: int = 0, num_ranks: int = 1) -> AdapterAverage:
    begin = fragments(*next(trajectory()))
    return AdapterAverage(SHAPES, averaged(ADAPTER), begin, ema_decay, CPU, rank=rank, num_ranks=num_ranks)


def product(average: AdapterAverage) -> torch.Tensor:
    shapes = dict(average.shapes)
    values = {name: values.view(shapes[name]) for name, _, values in average.fragments()}
    ((first, second),) = factor_pairs(values.items()).values()
    return second @ first


def off(given: torch.Tensor, exact: torch.Tensor) -> float:
    return float((given - exact).norm() / exact.norm())


def test_it_is_the_average_of_products_to_one_percent() -> None:
    average, exact = make_average(), torch.zeros(OUT, IN)
    factors = [value.clone() for value in next(trajectory())]
    for first, second in list(trajectory())[1:]:
        average.update(fragments(first, second))
        exact = DECAY * exact + (1 - DECAY) * second @ first
        factors = [DECAY * old + (1 - DECAY) * new for old, new in zip(factors, (first, second), strict=True)]
    assert off(product(average), exact) < 1e-2
    assert off(factors[1] @ factors[0], exact) > 5e-2  # averages of the factors


def test_a_resting_student_is_approached_as_fast_as_the_decay_says() -> None:
    average = make_average()
    *_, (first, second) = trajectory()
    for num_steps in range(1, 6):
        average.update(fragments(first, second))
        assert off(product(average), (1 - DECAY**num_steps) * second @ first) < 1e-5


@pytest.mark.parametrize("ema_decay", [0.0, 1.0])
def test_a_decay_of_0_is_the_student_and_of_1_the_beginning(ema_decay: float) -> None:
    average = make_average(ema_decay)
    *_, (first, second) = trajectory()
    average.update(fragments(first, second))
    torch.testing.assert_close(product(average), (1 - ema_decay) * second @ first, atol=1e-6, rtol=0)


def test_a_stage_begins_with_the_student() -> None:
    average = make_average()
    *_, (first, second) = trajectory()
    average.rebase(fragments(first, second))
    torch.testing.assert_close(product(average), second @ first)


def test_ranks_own_parts_that_make_up_the_whole() -> None:
    whole, *parts = make_average(), make_average(rank=0, num_ranks=2), make_average(rank=1, num_ranks=2)
    *_, (first, second) = trajectory()
    for average in (whole, *parts):
        average.update(fragments(first, second))
    for name, _, values in whole.fragments():
        owned = sorted(part for average in parts for part in average.fragments() if part.name == name)
        assert torch.equal(torch.cat([part.values for part in owned]), values)
        assert [part.start for part in owned] == [0, values.numel() // 2]


def test_a_restored_average_goes_on_bit_for_bit() -> None:
    average, other = make_average(), make_average()
    steps = list(trajectory())[1:]
    for step in steps[:10]:
        average.update(fragments(*step))
    saved = {name: values.clone() for name, _, values in average.fragments()}
    other.restore(lambda name, start, size: saved[name][start : start + size])
    for step in steps[10:]:
        average.update(fragments(*step))
        other.update(fragments(*step))
    assert torch.equal(product(average), product(other))


def test_targets_that_are_narrower_than_the_average_are_averaged_exactly() -> None:
    shapes = (("k_proj" + A, (4, 6)), ("k_proj" + B, (3, 4)))
    first, second = torch.randn(4, 6), torch.randn(3, 4)
    begin = [Fragment(name, 0, torch.zeros(shape).view(-1)) for name, shape in shapes]
    average = AdapterAverage(shapes, averaged(ADAPTER), begin, 0.5, CPU, rank=0, num_ranks=1)
    average.update([Fragment("k_proj" + A, 0, first.view(-1)), Fragment("k_proj" + B, 0, second.view(-1))])
    torch.testing.assert_close(product(average), 0.5 * second @ first)
