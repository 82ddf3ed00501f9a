import asyncio

import pytest

from sdft_ray.errors import WeightVersionError
from sdft_ray.records import Publication, Rollout
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.weights.channel import WeightChannel, WeightKind
from sdft_ray.workers.group import WorkerGroup
from tests.fakes import make_example


class Method:
    """What an actor's method looks like to a caller: `.remote` returns an awaitable."""

    def __init__(self, method):
        self.remote = method


class FakeActor:
    """A rollout worker in memory; completions wait until `release` is set."""

    def __init__(self, stuck_at: int | None = None):
        self.completed = 0
        self.loaded: list[int] = []
        self.release = asyncio.Event()
        self._stuck_at = stuck_at
        self.complete = Method(self._complete)
        self.load_weights = Method(self._load_weights)

    async def _complete(self, example):
        self.completed += 1
        await self.release.wait()
        return Rollout(
            prompt_tokens=example.prompt_tokens,
            completion_tokens=(0,),
            logprobs=(0.0,),
            weight_version=self.loaded[-1] if self.loaded else 0,
            truncated=False,
            num_sampled=1,
        )

    async def _load_weights(self, publication):
        self.loaded.append(publication.version)
        return publication.version if self._stuck_at is None else self._stuck_at


def make_pool(*actors):
    fetched = []

    async def publish(kind, version):
        fetched.append((kind, version))
        return Publication(version=version, buckets=())

    return RolloutPool(WorkerGroup("rollout", actors, "logs"), WeightChannel(publish, 10.0)), fetched


def test_completions_go_to_the_least_busy_worker():
    async def run():
        actors = [FakeActor(), FakeActor(), FakeActor()]
        pool, _ = make_pool(*actors)
        open_completions = [asyncio.create_task(pool.complete(make_example(index))) for index in range(7)]
        await asyncio.sleep(0.01)
        busy = [actor.completed for actor in actors]
        for actor in actors:
            actor.release.set()
        return busy, await asyncio.gather(*open_completions)

    busy, rollouts = asyncio.run(run())
    assert sorted(busy) == [2, 2, 3]
    assert [rollout.prompt_tokens[-1] for rollout in rollouts] == list(range(7))


def test_answers_are_asked_of_a_worker_as_they_are_to_be_drawn():
    async def run():
        actor = FakeActor()

        async def sample(*asked):
            return asked

        actor.sample = Method(sample)
        pool, _ = make_pool(actor)
        return await pool.sample((1, 2), 8, 0.7, 0.9, 5)

    assert asyncio.run(run()) == ((1, 2), 8, 0.7, 0.9, 5)


def test_weights_are_fetched_once_and_loaded_by_every_worker():
    async def run():
        actors = [FakeActor(), FakeActor()]
        pool, fetched = make_pool(*actors)
        await asyncio.gather(pool.load_weights(3), pool.load_weights(3))
        await pool.load_weights(3)
        await pool.load_weights(4)
        return fetched, [actor.loaded for actor in actors]

    fetched, loaded = asyncio.run(run())
    assert fetched == [(WeightKind.STUDENT, 3), (WeightKind.STUDENT, 4)]
    assert loaded == [[3, 4], [3, 4]]


def test_workers_hold_version_0_from_the_start():
    async def run():
        actor = FakeActor()
        pool, fetched = make_pool(actor)
        await pool.load_weights(0)
        return fetched, actor.loaded

    assert asyncio.run(run()) == ([], [])


def test_a_worker_that_holds_another_version_is_an_error_and_the_load_can_be_repeated():
    async def run():
        stuck = FakeActor(stuck_at=1)
        pool, _ = make_pool(FakeActor(), stuck)
        with pytest.raises(WeightVersionError, match="rollout worker 1 holds weights 1 after loading 2"):
            await pool.load_weights(2)
        stuck._stuck_at = None
        await pool.load_weights(2)
        return stuck.loaded

    assert asyncio.run(run()) == [2, 2]


def test_the_model_folders_weights_are_replaced_by_the_learners_once_where_that_is_asked_for():
    async def run():
        actors = [FakeActor(), FakeActor()]
        pool, fetched = make_pool(*actors)
        await pool.load_weights(0)
        assert not fetched
        await pool.load_weights(0, published=True)
        assert fetched == [(WeightKind.STUDENT, 0)]
        await pool.load_weights(0, published=True)
        assert [actor.loaded for actor in actors] == [[0], [0]], "once is enough"

    asyncio.run(run())
