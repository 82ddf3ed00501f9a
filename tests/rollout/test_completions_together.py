import asyncio

import pytest

from sdft_ray.rollout.completions import CompletedTogether
from tests.fakes import make_example


class Sampler:
    """Completes an example when it is told to."""

    def __init__(self) -> None:
        self.done = {index: asyncio.Event() for index in range(3)}
        self.loaded: list[int] = []

    async def complete(self, example):
        await self.done[example.seed].wait()
        if example.seed == 2:
            raise RuntimeError("the sampler died")
        return example.seed

    async def load_weights(self, version: int) -> None:
        self.loaded.append(version)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_first_completion_waits_for_the_last() -> None:
    sampler = Sampler()
    together = CompletedTogether(sampler)
    first, second = (asyncio.create_task(together.complete(make_example(index))) for index in (0, 1))
    await settled()
    sampler.done[0].set()
    await settled()
    assert not first.done()
    sampler.done[1].set()
    assert await asyncio.gather(first, second) == [0, 1]


async def test_what_is_sampled_later_is_not_waited_for_by_what_was_handed_on() -> None:
    sampler = Sampler()
    together = CompletedTogether(sampler)
    sampler.done[0].set()
    assert await together.complete(make_example(0)) == 0
    later = asyncio.create_task(together.complete(make_example(1)))
    await settled()
    assert not later.done()
    sampler.done[1].set()
    assert await later == 1


async def test_a_failure_is_handed_on_at_once_and_holds_nobody_back() -> None:
    sampler = Sampler()
    together = CompletedTogether(sampler)
    good, bad = (asyncio.create_task(together.complete(make_example(index))) for index in (0, 2))
    await settled()
    sampler.done[2].set()
    with pytest.raises(RuntimeError, match="died"):
        await bad
    sampler.done[0].set()
    assert await good == 0


async def test_weights_are_the_samplers_business() -> None:
    sampler = Sampler()
    await CompletedTogether(sampler).load_weights(3)
    assert sampler.loaded == [3]
