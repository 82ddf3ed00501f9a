"""Parameters to packed buckets and back.

A bucket is one flat array that holds many parameters, so that a set of weights travels in a few large pieces
instead of one call a parameter.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from sdft_ray.records import Bucket, ParameterEntry
from sdft_ray.tensors import to_tensor

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
    return entries[-1].offset + math.prod(entries[-1].shape)


def unpack(bucket: Bucket, array: np.ndarray) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of an opened bucket, as views of `array`."""
    flat = to_tensor(array)
    for entry in bucket.entries:
        yield entry.name, flat[entry.offset : entry.offset + math.prod(entry.shape)].view(entry.shape)
