"""Weights out of the learner: packed into buckets for the workers, or into a folder for everybody else."""

from collections.abc import Callable, Iterator

import numpy as np
import ray
import torch
import torch.distributed as dist

from sdft_ray.learner.fragments import Fragment, assemble, parameter_shapes
from sdft_ray.records import Bucket, ParameterEntry, Publication
from sdft_ray.tensors import dtype_name, to_array
from sdft_ray.weights.buckets import plan_buckets, unpack


class Publisher:
    """Packs a set of weights, bucket by bucket; all ranks work, rank 0 holds the result."""

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype, device: torch.device):
        """`dtype` is that of the workers' weights."""
        self._plan = plan_buckets(parameter_shapes(module))
        self._dtype = dtype
        self._device = device

    def publish(self, version: int, fragments: Callable[[], Iterator[Fragment]]) -> Publication | None:
        """Puts the weights into the object store; every rank has to call it.

        Returns:
            Handles on rank 0, None elsewhere. The buckets live until the last handle is dropped.
        """
        buckets = [
            Bucket(dtype=dtype_name(self._dtype), entries=entries, array=ray.put(array))
            for entries, array in self._arrays(fragments, self._dtype)
        ]
        return Publication(version=version, buckets=tuple(buckets)) if buckets else None

    def state_dict(self, fragments: Callable[[], Iterator[Fragment]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """All parameters in host memory on rank 0, empty elsewhere; every rank has to call it."""
        state: dict[str, torch.Tensor] = {}
        for entries, array in self._arrays(fragments, dtype):
            state |= dict(unpack(Bucket(dtype=dtype_name(dtype), entries=entries, array=None), array))
        return state

    def _arrays(
        self, fragments: Callable[[], Iterator[Fragment]], dtype: torch.dtype
    ) -> Iterator[tuple[tuple[ParameterEntry, ...], np.ndarray]]:
        for entries in self._plan:
            flat = assemble(entries, fragments, self._device)
            if dist.get_rank() == 0:
                yield entries, to_array(flat.to(dtype))
