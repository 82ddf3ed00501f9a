"""The channel of any cluster: one bucket after the other through Ray's object store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
import ray
import torch.distributed as dist

from sdft_ray.records import Bucket, Publication
from sdft_ray.tensors import dtype_name
from sdft_ray.weights.buckets import BUFFER_DTYPE, packed_buffers
from sdft_ray.weights.channel import Ends, RankWeights, Sender, WeightKind
from sdft_ray.weights.fragments import assembled
from sdft_ray.weights.shared_memory import MemoryFile

FETCH_TIMEOUT_S = 600.0  # in the worker; the driver waits for the whole load, see `workers/deadlines.py`


class StoredArray(NamedTuple):
    """An array in the object store, which lives until the last of its handles is dropped."""

    reference: Any

    def open(self, dtype: str) -> np.ndarray:
        """See `ArrayHandle.open`."""
        array: np.ndarray = ray.get(self.reference, timeout=FETCH_TIMEOUT_S)
        return array

    @asynccontextmanager
    async def mapped(self) -> AsyncIterator[tuple[str, str]]:
        """See `ArrayHandle.mapped`: a copy, for as long as the block lasts."""
        memory = await asyncio.to_thread(MemoryFile.holding, await self.reference)
        try:
            yield memory.handle
        finally:
            memory.close()


class ObjectStoreSender(Sender):
    """Rank 0 puts the buckets that all ranks have assembled."""

    def __init__(self, weights: RankWeights):
        self._weights = weights

    def publish(self, kind: WeightKind, version: int) -> Publication | None:
        """See `Sender`."""
        weights = self._weights
        buckets = [
            Bucket(dtype=dtype_name(weights.dtype), entries=entries, array=StoredArray(ray.put(array)))
            for entries, array in assembled(
                weights.shapes_of(kind), weights.fragments(kind), weights.dtype, weights.device
            )
        ]
        if dist.get_rank() != 0:
            return None
        buffers = [
            Bucket(dtype=BUFFER_DTYPE, entries=entries, array=StoredArray(ray.put(array)), trains=False)
            for entries, array in packed_buffers(weights.buffers())
        ]
        return Publication(version=version, buckets=(*buckets, *buffers))


ENDS = Ends(ObjectStoreSender)
