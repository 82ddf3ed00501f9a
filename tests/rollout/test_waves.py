import asyncio

import pytest

from sdft_ray.rollout.waves import Waves


class Engine:
    """Answers a wave when it is told to."""

    def __init__(self) -> None:
        self.waves: list[list[int]] = []
        self.may_answer = asyncio.Event()

    async def run(self, requests: list[int]) -> list[int]:
        self.waves.append(requests)
        await self.may_answer.wait()
        if -1 in requests:
            raise RuntimeError("the engine died")
        return [10 * request for request in requests]


async def test_requests_that_follow_one_another_through_a_lock_are_one_wave_in_their_order() -> None:
    engine, changed, is_open = Engine(), asyncio.Condition(), False
    engine.may_answer.set()
    waves = Waves(engine.run)

    async def ask(request: int) -> int:
        async with changed:
            await changed.wait_for(lambda: is_open)
        return await waves.submit(request)

    asking = [asyncio.create_task(ask(request)) for request in range(20)]
    await asyncio.sleep(0.01)
    async with changed:
        is_open = True
        changed.notify_all()
    assert await asyncio.gather(*asking) == [10 * request for request in range(20)]
    assert engine.waves == [list(range(20))]


async def test_what_is_asked_while_a_wave_is_computed_is_the_next_wave() -> None:
    engine = Engine()
    waves = Waves(engine.run)
    first = [asyncio.create_task(waves.submit(request)) for request in (0, 1)]
    await asyncio.sleep(0.01)
    later = [asyncio.create_task(waves.submit(2))]
    await asyncio.sleep(0.01)
    later.append(asyncio.create_task(waves.submit(3)))
    await asyncio.sleep(0.01)
    assert engine.waves == [[0, 1]]
    engine.may_answer.set()
    assert await asyncio.gather(*first, *later) == [0, 10, 20, 30]
    assert engine.waves == [[0, 1], [2, 3]]


async def test_what_follows_from_the_answers_of_a_wave_is_one_wave() -> None:
    engine = Engine()
    engine.may_answer.set()
    waves = Waves(engine.run)

    async def ask_twice(request: int) -> int:
        return await waves.submit(await waves.submit(request))

    assert await asyncio.gather(*map(ask_twice, range(5))) == [100 * request for request in range(5)]
    assert engine.waves == [list(range(5)), [10 * request for request in range(5)]]


async def test_a_failed_wave_fails_those_who_asked_and_none_after_them() -> None:
    engine = Engine()
    engine.may_answer.set()
    waves = Waves(engine.run)
    outcomes = await asyncio.gather(waves.submit(1), waves.submit(-1), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["the engine died"] * 2
    assert await waves.submit(2) == 20


async def test_who_no_longer_waits_is_not_asked_for() -> None:
    engine = Engine()
    engine.may_answer.set()
    waves = Waves(engine.run)
    kept, dropped = (asyncio.create_task(waves.submit(request)) for request in (1, -1))
    await asyncio.sleep(0)
    dropped.cancel()
    assert await kept == 10
    with pytest.raises(asyncio.CancelledError):
        await dropped
    assert engine.waves == [[1]]
