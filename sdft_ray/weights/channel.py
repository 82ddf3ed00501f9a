"""The channel through Ray's object store: one put a bucket, shared memory on a node, any hardware.

Weights are pulled: a worker pool that needs version N asks the channel for it, the learner packs that kind of weights
once, and everybody who asks gets the same handles. What nobody asks for never travels: supervised fine-tuning
publishes only before an evaluation, a frozen teacher gets nothing, a live one reads the student's own buckets.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
    """The driver's end: one publication per kind and version for all who need it at that time."""

    def __init__(self, publish: Callable[[WeightKind, int], Awaitable[Publication]]):
        self._publish = publish
        self._open: dict[tuple[WeightKind, int], _Shared] = {}

    @asynccontextmanager
    async def publication(self, kind: WeightKind, version: int) -> AsyncIterator[Publication]:
        """The handles of that publication, inside the block; with its last user the buckets' memory is freed."""
        key = (kind, version)
        if key not in self._open:
            self._open[key] = _Shared(asyncio.ensure_future(self._publish(kind, version)))
        shared = self._open[key]
        shared.num_users += 1
        try:
            yield await asyncio.shield(shared.publication)
        finally:
            shared.num_users -= 1
            if shared.num_users == 0:
                del self._open[key]


@dataclass(slots=True)
class _Shared:
    """A publication and how many use it."""

    publication: asyncio.Future[Publication]
    num_users: int = 0


def open_publication(publication: Publication) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of a publication, one bucket after the other, as read-only views of shared memory.

    Called where the weights are needed, never in the driver.
    """
    for bucket in publication.buckets:
        yield from unpack(bucket, ray.get(bucket.array))
