"""Parameters to packed buckets and back.

A bucket is one flat array that holds many parameters, so that a set of weights travels in a few large pieces
instead of one call a parameter.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch

from sdft_ray.records import Bucket, ParameterEntry, Publication
from sdft_ray.tensors import DTYPES, to_array, to_tensor

BUFFER_DTYPE = "float32"  # that of a publication's buffers, whatever the workers' is: see models/state.py
BUCKET_ELEMENTS = 64 * 2**20  # 256 MiB in fp32: large enough to run at memory speed, small enough to hold two of


def plan_buckets(
    shapes: Iterable[tuple[str, tuple[int, ...]]], max_elements: int = BUCKET_ELEMENTS
) -> list[tuple[ParameterEntry, ...]]:
    """Groups parameters, in order, into buckets of at most `max_elements`; a larger parameter gets its own."""
    plans: list[tuple[ParameterEntry, ...]] = []
    current: list[ParameterEntry] = []
    filled = 0
    for name, shape in shapes:
        size = math.prod(shape)
        if current and filled + size > max_elements:
            plans.append(tuple(current))
            current, filled = [], 0
        current.append(ParameterEntry(name=name, shape=tuple(shape), offset=filled))
        filled += size
    return [*plans, tuple(current)] if current else plans


def bucket_elements(entries: tuple[ParameterEntry, ...]) -> int:
    """Length of the flat array that holds `entries`."""
    return entries[-1].end


def published_bytes(publication: Publication) -> int:
    """Size of a publication's arrays, each counted once however many workers read it."""
    return sum(bucket_elements(bucket.entries) * DTYPES[bucket.dtype].itemsize for bucket in publication.buckets)


def unpack(bucket: Bucket, array: np.ndarray) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of an opened bucket, as views of `array`."""
    return views(bucket.entries, to_tensor(array))


def views(entries: tuple[ParameterEntry, ...], flat: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters that lie in `flat`."""
    for entry in entries:
        yield entry.name, flat[entry.offset : entry.end].view(entry.shape)


def packed_buffers(buffers: Mapping[str, torch.Tensor]) -> Iterator[tuple[tuple[ParameterEntry, ...], np.ndarray]]:
    """The floating buffers that are saved with a network, in fp32, in one bucket; nothing where it has none.

    They travel with every version: a few numbers a layer, so that who loads a publication holds all of it.
    """
    if buffers:
        (entries,) = plan_buckets(((name, tuple(value.shape)) for name, value in buffers.items()), sys.maxsize)
        flat = torch.cat([value.detach().float().cpu().view(-1) for value in buffers.values()])
        yield entries, to_array(flat)
