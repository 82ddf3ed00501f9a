"""The driver's end of the weight channel, with a learner and workers in memory."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable
from typing import Any

import pytest

from sdft_ray.errors import WeightVersionError
from sdft_ray.records import Bucket, ParameterEntry, Publication
from sdft_ray.weights.channel import WeightChannel, WeightKind
from sdft_ray.workers.deadlines import Work

ENTRIES = (ParameterEntry(name="a", shape=(3, 4), offset=0),)


class Buffer:
    """Stands for a bucket's array; can be referred to weakly."""


class Learner:
    """Remembers what it was asked to publish."""

    def __init__(self, pause_s: float = 0.001) -> None:
        self.asked: list[tuple[WeightKind, int]] = []
        self.pause_s = pause_s

    async def publish(self, kind: WeightKind, version: int) -> Publication:
        self.asked.append((kind, version))
        await asyncio.sleep(self.pause_s)
        return Publication(version=version, buckets=(Bucket(dtype="bfloat16", entries=ENTRIES, array=Buffer()),))


class Workers:
    """Receivers whose loads take the times they are made with."""

    role = "teacher"

    def __init__(self, *pauses_s: float):
        self.pauses_s, self.size = pauses_s, len(pauses_s)
        self.loaded: list[Publication] = []

    async def on_serving(self, call: Any, work: Work) -> dict[int, int]:
        self.most_s = work.most_s
        return dict(enumerate(await asyncio.gather(*map(call, self.pauses_s))))

    def confirm_version(self, acknowledged: Any, version: int) -> None:
        assert list(acknowledged.values()) == [version] * self.size

    async def load(self, pause_s: float, publication: Publication) -> int:
        await asyncio.sleep(pause_s)
        self.loaded.append(publication)
        return publication.version


def deliver(channel: WeightChannel, kind: WeightKind, version: int, workers: Workers) -> Awaitable[None]:
    return channel.deliver(kind, version, workers, workers.load)


async def test_everybody_who_needs_a_version_at_the_same_time_gets_the_same_publication() -> None:
    learner, pools = Learner(), [Workers(0.0, 0.001), Workers(0.002), Workers(0.004)]
    channel = WeightChannel(learner.publish, 10.0)
    await asyncio.gather(*(deliver(channel, WeightKind.STUDENT, 1, pool) for pool in pools))
    assert learner.asked == [(WeightKind.STUDENT, 1)]
    publications = [publication for pool in pools for publication in pool.loaded]
    assert len(publications) == 4
    assert all(publication is publications[0] for publication in publications)


async def test_only_what_is_asked_for_is_published() -> None:
    learner = Learner()
    channel = WeightChannel(learner.publish, 10.0)
    for version in (1, 2):
        await deliver(channel, WeightKind.EMA, version, Workers(0.0))
    await deliver(channel, WeightKind.STUDENT, 2, Workers(0.0))
    assert learner.asked == [(WeightKind.EMA, 1), (WeightKind.EMA, 2), (WeightKind.STUDENT, 2)]


async def test_a_publication_is_freed_with_its_last_user() -> None:
    channel, workers = WeightChannel(Learner().publish, 10.0), Workers(0.0)
    await deliver(channel, WeightKind.STUDENT, 1, workers)
    held = weakref.ref(workers.loaded[0].buckets[0].array)
    assert held() is not None
    workers.loaded.clear()
    gc.collect()
    assert held() is None


async def test_an_error_of_the_learner_reaches_everybody_who_asked() -> None:
    async def fail(kind: WeightKind, version: int) -> Publication:
        raise ValueError("no weights")

    channel = WeightChannel(fail, 10.0)
    both = (deliver(channel, WeightKind.EMA, 1, Workers(0.0)) for _ in range(2))
    assert [str(error) for error in await asyncio.gather(*both, return_exceptions=True)] == ["no weights"] * 2


async def test_a_receiver_that_gives_up_does_not_take_the_publication_from_the_others() -> None:
    channel, pools = WeightChannel(Learner().publish, 10.0), [Workers(0.0), Workers(0.0)]
    both = [asyncio.ensure_future(deliver(channel, WeightKind.STUDENT, 4, pool)) for pool in pools]
    await asyncio.sleep(0)
    both[0].cancel()
    gone, _ = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(gone, asyncio.CancelledError)
    assert [publication.version for publication in pools[1].loaded] == [4]


async def test_workers_have_at_most_the_timeout_to_take_the_weights_over() -> None:
    channel, workers = WeightChannel(Learner().publish, 7.0), Workers(0.0)
    await deliver(channel, WeightKind.EMA, 3, workers)
    assert workers.most_s == 7.0


async def test_a_learner_that_does_not_publish_in_time_is_named() -> None:
    channel = WeightChannel(Learner(pause_s=60.0).publish, 0.05)
    with pytest.raises(WeightVersionError, match="the learner did not publish ema weights 3 within"):
        await deliver(channel, WeightKind.EMA, 3, Workers(0.0))


async def test_a_timeout_of_a_worker_s_own_is_not_taken_for_the_channel_s() -> None:
    async def fail(pause_s: float, publication: Publication) -> int:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await WeightChannel(Learner().publish, 10.0).deliver(WeightKind.EMA, 1, Workers(0.0), fail)


async def test_memory_is_not_published_anew_while_somebody_reads_the_version_before() -> None:
    learner = Learner()
    channel = WeightChannel(learner.publish, 10.0)
    slow = asyncio.ensure_future(deliver(channel, WeightKind.STUDENT, 1, Workers(0.05)))
    await asyncio.sleep(0.01)
    with pytest.raises(WeightVersionError, match="student weights 2 were asked for while 1 are being loaded"):
        await deliver(channel, WeightKind.STUDENT, 2, Workers(0.0))
    await deliver(channel, WeightKind.EMA, 2, Workers(0.0))
    await slow
    await deliver(channel, WeightKind.STUDENT, 2, Workers(0.0))
    assert learner.asked == [(WeightKind.STUDENT, 1), (WeightKind.EMA, 2), (WeightKind.STUDENT, 2)]


async def test_metrics_count_each_publication_once_and_the_slowest_pool() -> None:
    channel = WeightChannel(Learner(pause_s=0.1).publish, 10.0)
    assert channel.take_metrics() == {}
    await asyncio.gather(
        deliver(channel, WeightKind.STUDENT, 1, Workers(0.0, 0.0)),
        deliver(channel, WeightKind.STUDENT, 1, Workers(0.1)),
        deliver(channel, WeightKind.EMA, 1, Workers(0.0)),
    )
    metrics = channel.take_metrics()
    assert metrics["weights/published_bytes"] == 2 * 12 * 2
    assert 0.1 <= metrics["weights/publish_s"] < 0.2, "both kinds are published at the same time"
    assert 0.1 <= metrics["weights/load_s"] < 0.2
    assert channel.take_metrics() == {}
