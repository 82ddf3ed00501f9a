"""The channel through Ray's object store: one put a bucket, shared memory on a node, any hardware.

Weights are pulled: a worker pool that needs version N asks the channel for it, the learner packs that kind of weights
once, and everybody who asks gets the same handles. What nobody asks for never travels: supervised fine-tuning
publishes only before an evaluation, a frozen teacher gets nothing, a live one reads the student's own buckets.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum

import ray
import torch

from sdft_ray.records import Publication
from sdft_ray.weights.buckets import unpack


class WeightKind(Enum):
    """Which of the learner's two sets of weights."""

    STUDENT = "student"
    EMA = "ema"


class WeightChannel:
    """The driver's end: asks the learner for a publication once per kind and version, and hands out its handles."""

    def __init__(self, publish: Callable[[WeightKind, int], Awaitable[Publication]]):
        self._publish = publish
        self._publications: dict[WeightKind, asyncio.Task[Publication]] = {}
        self._versions: dict[WeightKind, int] = {}

    async def fetch(self, kind: WeightKind, version: int) -> Publication:
        """The publication of `version`; replaces, and so frees, the one before it."""
        if self._versions.get(kind) != version:
            self._versions[kind] = version
            self._publications[kind] = asyncio.ensure_future(self._publish(kind, version))
        return await asyncio.shield(self._publications[kind])

    def release(self) -> None:
        """Frees the buckets of every publication."""
        self._publications.clear()
        self._versions.clear()


def open_publication(publication: Publication) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of a publication, one bucket after the other, as read-only views of shared memory.

    Called where the weights are needed, never in the driver.
    """
    for bucket in publication.buckets:
        yield from unpack(bucket, ray.get(bucket.array))
