"""Publications made without a learner and without Ray."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from sdft_ray.models.state import published_buffers
from sdft_ray.records import Bucket, Publication
from sdft_ray.tensors import dtype_name, to_array
from sdft_ray.weights.buckets import plan_buckets
from sdft_ray.weights.channel import RankWeights, WeightKind
from sdft_ray.weights.fragments import Fragment, Shapes
from sdft_ray.weights.shared_memory import MemoryFile


def publish(version: int, parameters: Mapping[str, torch.Tensor], max_elements: int = 100) -> Publication:
    """The parameters in memory files, which live as long as this process."""
    buckets = []
    for entries in plan_buckets(((name, value.shape) for name, value in parameters.items()), max_elements):
        array = np.concatenate([to_array(parameters[entry.name]).ravel() for entry in entries])
        dtype = dtype_name(parameters[entries[0].name].dtype)
        buckets.append(Bucket(dtype=dtype, entries=entries, array=MemoryFile.holding(array).handle))
    return Publication(version=version, buckets=tuple(buckets))


def shapes_of(module: torch.nn.Module) -> Shapes:
    return tuple((name, tuple(value.shape)) for name, value in module.named_parameters())


def fragments_of(module: torch.nn.Module) -> Iterator[Fragment]:
    """All weights of a module, as the only rank without ZeRO owns them."""
    return (Fragment(name, 0, value.data.view(-1)) for name, value in module.named_parameters())


def weights_of(
    module: torch.nn.Module,
    dtype: torch.dtype = torch.float32,
    average: list[Fragment] | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> RankWeights:
    """The weights of a single rank; `average` is that of the module, or the module itself."""

    def fragments(kind: WeightKind) -> Iterator[Fragment]:
        return iter(average) if kind is WeightKind.EMA and average is not None else fragments_of(module)

    return RankWeights(
        shapes=shapes_of(module),
        fragments=fragments,
        buffers=lambda: published_buffers(module),
        dtype=dtype,
        device=device,
    )
