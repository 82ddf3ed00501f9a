"""What the engine's own processes do with new weights: a class that vLLM adds to its worker.

The engine is a child process of an actor and knows no Ray, so it is handed buckets as anonymous files in
memory: the learner's own, or copies that the actor made from the object store, one at a time. The three steps are
those of vLLM's own weight transfer engines (`start`, `update`, `finish`) around its layer-wise reload; a plain
`model.load_weights` fails on a CPU, where weights are packed after loading. Well-known networks on a CPU are spared
the reload (`stacked_weights`).
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from vllm.config import set_current_vllm_config
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.platforms import current_platform

from sdft_ray.inference.checkpoint_names import CheckpointNames
from sdft_ray.inference.engine_process import leave_nothing_behind
from sdft_ray.inference.stacked_weights import NETWORKS, StackedWeights
from sdft_ray.records import Bucket, ParameterEntry
from sdft_ray.tensors import one_thread, peak_gpu_memory_gib, release_freed_memory, release_pages
from sdft_ray.weights.buckets import unpack
from sdft_ray.weights.shared_memory import MemoryHandle, map_memory

leave_nothing_behind()  # vLLM imports this module first of ours in each of an engine's processes, in its main thread


class WeightLoading:
    """Methods that vLLM's worker gains; each runs in every tensor-parallel rank.

    On a GPU the same path copies from the mapped file to the device, layer by layer; not run there yet.
    """

    model_runner: Any
    vllm_config: Any
    _has_loaded = False

    def release_start_up_memory(self) -> None:
        """Gives back what loading the model folder and trying out the network took."""
        release_freed_memory()

    def release_cache(self) -> None:
        """Gives the memory of the KV cache back to the system on a CPU, whose worker does not do so when it sleeps.

        It is there again, as zeros, where it is next written to.
        """
        if current_platform.is_cpu():
            for cache in {cache.untyped_storage().data_ptr(): cache for cache in self._caches()}.values():
                release_pages(cache)
            release_freed_memory()

    def peak_gpu_memory_gib(self) -> float:
        """See `tensors.peak_gpu_memory_gib`."""
        return peak_gpu_memory_gib()

    def begin_weights(self, maps: bool) -> None:
        """Opens the model for new weights; nothing may be computed until `finish_weights`.

        `maps` allows to compute with the published memory itself, which then must not change meanwhile.
        """
        model = self._model()
        # zentorch, where it is installed, may compute with the weights as they are instead of packing them.
        packs = current_platform.is_cpu() and not current_platform.is_zen_cpu()
        stacked = packs and type(model).__name__ in NETWORKS
        with set_current_vllm_config(self.vllm_config):
            self._new = (
                StackedWeights(model, maps=maps) if stacked else LayerwiseReload(model, self.vllm_config.model_config)
            )

    def load_bucket(self, handle: tuple[str, str], dtype: str, entries: list[tuple[str, list[int], int]]) -> None:
        """Loads the parameters of one bucket, (name, shape, offset in elements), from the memory behind `handle`.

        Views of the file may be held back until their layer is complete. They keep the mapping alive, so the
        file may go as soon as this returns.
        """
        bucket = Bucket(
            dtype=dtype,
            entries=tuple(ParameterEntry(name=name, shape=tuple(shape), offset=at) for name, shape, at in entries),
            array=None,
        )
        array = map_memory(MemoryHandle(*handle), dtype)
        with set_current_vllm_config(self.vllm_config), torch.no_grad(), one_thread():
            self._new.load(unpack(bucket, array))

    def finish_weights(self) -> set[str]:
        """Closes the model again; answers with its parameters that got no new weights: there should be none."""
        with set_current_vllm_config(self.vllm_config), torch.no_grad(), one_thread():
            missing = self._new.finish()
        torch.accelerator.synchronize()  # copies to a device may still be under way
        if not self._has_loaded:
            release_freed_memory()  # the model folder's weights
            self._has_loaded = True
        return missing

    def _caches(self) -> Iterator[torch.Tensor]:
        """The KV cache of every layer; several may lie in one allocation."""
        for cache in self.model_runner.kv_caches:
            yield from cache if isinstance(cache, list) else (cache,)  # a list holds the state of a recurrent layer

    def _model(self) -> Any:
        return self.model_runner.get_model()


class LayerwiseReload:
    """One set of new weights on its way into any network, on any hardware, as vLLM itself reloads them."""

    def __init__(self, model: Any, model_config: Any):
        """Opens `model`."""
        self._model = model
        self._model_config = model_config
        self._loaded: set[str] = set()
        self._names = CheckpointNames(model_config.model)
        self._experts = _pack_experts_anew(model) if current_platform.is_cpu() else {}
        initialize_layerwise_reload(model)

    def load(self, published: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Takes over what is complete; views of the rest are kept until it is."""
        self._loaded |= self._model.load_weights(self._names.convert(published))

    def finish(self) -> set[str]:
        """Closes the network; its parameters that got no new weights."""
        self._loaded |= self._model.load_weights(self._names.rest())
        finalize_layerwise_reload(self._model, self._model_config)
        for name, head in self._model.named_modules():
            if isinstance(head, ParallelLMHead) and f"{name}.weight" not in self._loaded:
                # Tied to the embedding, through which alone vLLM 0.32 reloads the shared parameter. On a
                # CPU the head computes with a repacked copy of it, which would stay the old one.
                head.quant_method.process_weights_after_loading(head)
        missing = {name for name, _ in self._model.named_parameters()} - self._loaded
        # Of experts that vLLM's reload passes over (gpt-oss), the kernel that was taken away is not made anew.
        return missing | {f"{name}.w13_weight" for name, method in self._experts.items() if method.moe_kernel is None}


def _pack_experts_anew(model: Any) -> dict[str, UnquantizedFusedMoEMethod]:
    """Has vLLM pack the weights of experts that it is about to reload; what will do so, by the name of the layer.

    On a CPU, vLLM 0.32 packs them where it first makes a layer's kernel, and never again: later weights would be
    multiplied unpacked, as if they were packed, without an error. A layer without a kernel makes one with its weights.
    """
    experts = {}
    for name, layer in model.named_modules():
        method = getattr(layer, "quant_method", None)
        if isinstance(method, UnquantizedFusedMoEMethod) and method.moe_kernel is not None:
            method.moe_kernel = None
            experts[name] = method
    return experts
