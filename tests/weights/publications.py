"""Publications made without a learner and without Ray."""

from collections.abc import Mapping

import numpy as np
import torch

from sdft_ray.records import Bucket, Publication
from sdft_ray.tensors import dtype_name, to_array
from sdft_ray.weights.buckets import plan_buckets
from sdft_ray.weights.memory_file import MemoryFile


def publish(version: int, parameters: Mapping[str, torch.Tensor], max_elements: int = 100) -> Publication:
    """The parameters in memory files, which live as long as this process."""
    buckets = []
    for entries in plan_buckets(((name, value.shape) for name, value in parameters.items()), max_elements):
        array = np.concatenate([to_array(parameters[entry.name]).ravel() for entry in entries])
        dtype = dtype_name(parameters[entries[0].name].dtype)
        buckets.append(Bucket(dtype=dtype, entries=entries, array=MemoryFile.holding(array).handle))
    return Publication(version=version, buckets=tuple(buckets))
