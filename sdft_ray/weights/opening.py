"""A publication where it is needed: opened by the workers, never by the driver."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import numpy as np
import ray
import torch

from sdft_ray.records import Bucket, Publication
from sdft_ray.weights.buckets import unpack
from sdft_ray.weights.memory_file import MemoryFile, MemoryHandle, map_memory


def open_publication(publication: Publication) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of a publication, one bucket after the other, as read-only views of shared memory."""
    for bucket in publication.buckets:
        yield from unpack(bucket, _array(bucket))


@asynccontextmanager
async def mappable(bucket: Bucket) -> AsyncIterator[Bucket]:
    """The bucket as one that a process without Ray can map, inside the block: copied only where it must be."""
    if isinstance(bucket.array, MemoryHandle):
        yield bucket
        return
    memory = await asyncio.to_thread(MemoryFile.holding, await bucket.array)
    try:
        yield Bucket(dtype=bucket.dtype, entries=bucket.entries, array=memory.handle)
    finally:
        memory.close()


def _array(bucket: Bucket) -> np.ndarray:
    if isinstance(bucket.array, MemoryHandle):
        return map_memory(bucket.array, bucket.dtype)
    array: np.ndarray = ray.get(bucket.array)
    return array
