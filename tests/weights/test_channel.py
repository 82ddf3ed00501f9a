"""The driver's end of the weight channel, with a learner in memory."""

import asyncio
import gc
import weakref

from sdft_ray.records import Publication
from sdft_ray.weights.channel import WeightChannel, WeightKind


class Buffer:
    """Stands for a bucket; can be referred to weakly."""


class Learner:
    """Remembers what it was asked to publish."""

    def __init__(self) -> None:
        self.asked: list[tuple[WeightKind, int]] = []

    async def publish(self, kind: WeightKind, version: int) -> Publication:
        self.asked.append((kind, version))
        await asyncio.sleep(0.001)
        return Publication(version=version, buckets=(Buffer(),))  # type: ignore[arg-type]


async def fetch(channel: WeightChannel, kind: WeightKind, version: int, hold_s: float = 0.0) -> Publication:
    async with channel.publication(kind, version) as publication:
        await asyncio.sleep(hold_s)
        return publication


def test_everybody_who_needs_a_version_at_the_same_time_gets_the_same_publication() -> None:
    async def ask() -> tuple[Learner, list[Publication]]:
        learner = Learner()
        channel = WeightChannel(learner.publish)
        waits = (0.0, 0.002, 0.004)
        return learner, list(await asyncio.gather(*(fetch(channel, WeightKind.STUDENT, 1, wait) for wait in waits)))

    learner, publications = asyncio.run(ask())
    assert learner.asked == [(WeightKind.STUDENT, 1)]
    assert all(publication is publications[0] for publication in publications)


def test_only_what_is_asked_for_is_published() -> None:
    async def ask() -> list[tuple[WeightKind, int]]:
        learner = Learner()
        channel = WeightChannel(learner.publish)
        for version in (1, 2):
            await fetch(channel, WeightKind.EMA, version)
        await fetch(channel, WeightKind.STUDENT, 2)
        return learner.asked

    assert asyncio.run(ask()) == [(WeightKind.EMA, 1), (WeightKind.EMA, 2), (WeightKind.STUDENT, 2)]


def test_a_publication_is_freed_with_its_last_user() -> None:
    async def use() -> weakref.ref[Buffer]:
        channel = WeightChannel(Learner().publish)
        async with channel.publication(WeightKind.STUDENT, 1) as publication:
            held = weakref.ref(publication.buckets[0])
            del publication
            await asyncio.sleep(0)
            assert held() is not None
        gc.collect()
        return held

    assert asyncio.run(use())() is None


def test_an_error_of_the_learner_reaches_everybody_who_asked() -> None:
    async def fail(kind: WeightKind, version: int) -> Publication:
        raise ValueError("no weights")

    async def ask() -> list[object]:
        channel = WeightChannel(fail)
        return list(
            await asyncio.gather(*(fetch(channel, WeightKind.EMA, 1) for _ in range(2)), return_exceptions=True)
        )

    assert [str(error) for error in asyncio.run(ask())] == ["no weights"] * 2


def test_a_receiver_that_gives_up_does_not_take_the_publication_from_the_others() -> None:
    async def ask() -> list[object]:
        channel = WeightChannel(Learner().publish)
        both = [asyncio.ensure_future(fetch(channel, WeightKind.STUDENT, 4)) for _ in range(2)]
        await asyncio.sleep(0)
        both[0].cancel()
        return list(await asyncio.gather(*both, return_exceptions=True))

    gone, publication = asyncio.run(ask())
    assert isinstance(gone, asyncio.CancelledError)
    assert isinstance(publication, Publication) and publication.version == 4
