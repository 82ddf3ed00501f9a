import asyncio

import numpy as np
import pytest
import torch

from sdft_ray.errors import ClusterError
from sdft_ray.records import Bucket, Publication
from sdft_ray.weights.buckets import plan_buckets
from sdft_ray.weights.memory_file import MemoryHandle, map_memory
from sdft_ray.weights.opening import mappable, open_publication
from tests.weights.publications import publish


def test_a_publication_in_memory_opens_as_what_was_published():
    for dtype in (torch.float32, torch.bfloat16):
        values = {name: torch.randn(shape).to(dtype) for name, shape in (("a", (7, 3)), ("b", (90,)), ("c", ()))}
        publication = publish(1, values)
        assert len(publication.buckets) == 2
        opened = dict(open_publication(publication))
        assert opened.keys() == values.keys()
        assert all(torch.equal(opened[name], values[name]) for name in values)


def test_a_bucket_in_memory_is_mapped_as_it_is():
    (bucket,) = publish(1, {"a": torch.ones(3)}).buckets

    async def run() -> Bucket:
        async with mappable(bucket) as mapped:
            return mapped

    assert asyncio.run(run()) is bucket


def test_a_bucket_of_the_object_store_is_copied_for_as_long_as_it_is_needed():
    async def handle() -> np.ndarray:
        return np.arange(6, dtype=np.float32)

    async def run() -> tuple[list[float], MemoryHandle]:
        (entries,) = plan_buckets([("a", (6,))])
        publication = Publication(version=1, buckets=(Bucket(dtype="float32", entries=entries, array=handle()),))
        async with mappable(publication.buckets[0]) as mapped:
            return map_memory(mapped.array, mapped.dtype).tolist(), mapped.array

    values, memory = asyncio.run(run())
    assert values == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ClusterError):
        map_memory(memory, "float32")
