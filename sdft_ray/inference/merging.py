"""An adapter on its way into a vLLM engine: merged into the base weights where it arrives, in the engine's actor.

vLLM has layers for adapters of its own. They would have to be there for every architecture, and are slower than the
network without: on a CPU they gather a copy of both factors for each token. Merged weights take the way of any others:
every network that can reload does, and samples at the speed of the base. In fp32 the sum is exact to rounding. In bf16
it is rounded once, as the masters of full fine-tuning are when they are published.

What it costs is host memory: the network's weights once more, and those of the targets twice.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial

import torch

from sdft_ray.config import Channel, ModelConfig
from sdft_ray.models.adapter import factor_pairs, merge
from sdft_ray.models.network import load_network
from sdft_ray.models.state import trained_parameters
from sdft_ray.records import Bucket, Publication
from sdft_ray.tensors import dtype_name, one_thread, to_tensor
from sdft_ray.weights.buckets import bucket_elements, views
from sdft_ray.weights.channel import LoadingEngine, Receiver, ends_of, mapped, open_publication
from sdft_ray.weights.shared_memory import FILE_DTYPE, MemoryFile, map_memory, one_bucket


def make_receiver(channel: Channel, model_path: str, model: ModelConfig) -> Receiver:
    """An engine's end of `channel`; of an adapter one that merges it."""
    if model.adapter.is_on:
        return MergingReceiver(model_path, model)
    return ends_of(channel).receiver()


class MergingReceiver(Receiver):
    """Loads base + scale * B A for every target, and the base for all other weights."""

    def __init__(self, model_path: str, model: ModelConfig):
        """Reads the base when the first publication arrives."""
        self._load_base = partial(load_network, model_path, model.dtype, model)
        self._scale = model.adapter.scale
        self._merged: MergedWeights | None = None

    async def load(self, engine: LoadingEngine, publication: Publication) -> None:
        """See `Receiver.load`."""
        bucket = await asyncio.to_thread(self._merge, publication)
        await engine.load_buckets(_with_buffers(bucket, publication))

    def _merge(self, publication: Publication) -> Bucket:
        factors = factor_pairs(open_publication(publication))
        if self._merged is None:
            self._merged = MergedWeights(trained_parameters(self._load_base()), set(factors))
        self._merged.update(factors, self._scale)
        return self._merged.bucket


class MergedWeights:
    """All weights of a network in one file in memory, of which those of the targets are written anew."""

    def __init__(self, base: dict[str, torch.nn.Parameter], targets: set[str]):
        """Copies the weights; of the targets the base is kept besides."""
        entries = one_bucket(tuple((name, tuple(value.shape)) for name, value in base.items()))
        dtype = next(iter(base.values())).dtype
        name = dtype_name(dtype)
        memory = MemoryFile(bucket_elements(entries) * FILE_DTYPE[name].itemsize)  # as long as this process lives
        self._views = dict(views(entries, to_tensor(map_memory(memory.handle, name, writable=True))))
        self._base = {target: base[f"{target}.weight"].detach() for target in targets}
        with one_thread():
            for name_of, value in base.items():
                self._views[name_of].copy_(value.detach())
        self.bucket = Bucket(dtype=name, entries=entries, array=tuple(memory.handle))

    def update(self, factors: dict[str, tuple[torch.Tensor, torch.Tensor]], scale: float) -> None:
        """Writes the merged weights of all targets; no engine may be reading."""
        with one_thread():
            for target, pair in factors.items():
                merge(self._base[target], pair, scale, self._views[f"{target}.weight"])


async def _with_buffers(bucket: Bucket, publication: Publication) -> AsyncGenerator[Bucket, None]:
    yield bucket
    buffers = tuple(each for each in publication.buckets if not each.trains)
    async for each in mapped(replace(publication, buckets=buffers)):
        yield each
