"""New weights of a network on a CPU, packed for its matrix products straight from the memory they were published in.

vLLM's reload of a layer makes its weights anew, copies them, packs the copy and throws it away: half of its time and a
second set of weights. That is not needed where the weights of a network are those of the model folder or several of
them on top of each other (query, key and value), one next to the other in a bucket.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

# Whose own loading in vLLM does nothing else to any weight; tests/cluster has an engine of each.
NETWORKS = ("LlamaForCausalLM", "Qwen2ForCausalLM")


class _Target(NamedTuple):
    """A parameter of the network, and what it is made of."""

    module: Any
    name: str  # of the parameter in its module
    sources: tuple[str, ...]  # published parameters, from the first row to the last


class StackedWeights:
    """One set of new weights on its way into a network on one CPU worker, in any number of buckets."""

    def __init__(self, network: Any, *, maps: bool):
        """Every parameter of the network is awaited.

        Args:
            network: one of `NETWORKS`, as vLLM has built it.
            maps: whether the published memory does not change while anything is computed: what needs no packing, and
                is large, is used where it lies.
        """
        self._maps = maps
        self._left: list[_Target] = []
        self._tied_heads: list[ParallelLMHead] = []
        for path, module in network.named_modules():
            if isinstance(module, ParallelLMHead) and network.config.tie_word_embeddings:
                self._tied_heads.append(module)
                continue
            parent, _, leaf = path.rpartition(".")
            leaves = network.packed_modules_mapping.get(leaf, [leaf])
            for name, _ in module.named_parameters(recurse=False):
                sources = tuple(f"{parent}.{each}.{name}".lstrip(".") for each in leaves)
                self._left.append(_Target(module, name, sources))
        self._waiting: dict[str, torch.Tensor] = {}

    def load(self, published: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Takes over what is complete; views of the rest are kept until it is."""
        self._waiting |= published
        still_left = []
        for target in self._left:
            if all(source in self._waiting for source in target.sources):
                _load(target, [self._waiting.pop(source) for source in target.sources], self._maps)
            else:
                still_left.append(target)
        self._left = still_left

    def finish(self) -> set[str]:
        """Closes the network; the published parameters that were awaited in vain."""
        for head in self._tied_heads:
            _pack_head(head)
        return {source for target in self._left for source in target.sources if source not in self._waiting}


def _load(target: _Target, parts: list[torch.Tensor], maps: bool) -> None:
    module, name, _ = target
    method = getattr(module, "quant_method", None)
    values = _stacked(parts)
    if isinstance(method, UnquantizedLinearMethod) and name == "weight":
        module.cpu_linear = None  # the old ones make room for the new
        module.weight = torch.nn.Parameter(values, requires_grad=False)
        method.process_weights_after_loading(module)  # packs it and lets go of it, where oneDNN can
        if module.weight.numel():
            module.weight.data = values.clone()  # the published memory is written anew for the next version
        return
    parameter = getattr(module, name)
    if maps and type(module) is VocabParallelEmbedding and parameter.shape == values.shape:
        parameter.data = values
    else:
        parameter.data[: len(values)].copy_(values)  # an embedding has rows that are padding
    if isinstance(module, ParallelLMHead):
        _pack_head(module)


def _pack_head(head: Any) -> None:
    """Anew: a head computes with a packed copy of its weights, which may be the embedding's."""
    head.cpu_linear = None
    head.quant_method.process_weights_after_loading(head)


def _stacked(parts: list[torch.Tensor]) -> torch.Tensor:
    """The parts on top of each other, as a view where they lie so already."""
    first = parts[0]
    memory = first.untyped_storage().data_ptr()
    if all(
        below.untyped_storage().data_ptr() == memory and above.data_ptr() + above.nbytes == below.data_ptr()
        for above, below in zip(parts, parts[1:], strict=False)
    ):
        num_rows = sum(map(len, parts))
        return first.as_strided((num_rows, *first.shape[1:]), first.stride())
    return torch.cat(parts)
