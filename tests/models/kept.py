"""What a call keeps for its backward pass."""

from collections.abc import Callable
from typing import Any

import torch


def kept_bytes(call: Callable[[], Any], network: torch.nn.Module) -> int:
    """Bytes autograd keeps of the call besides the network's parameters; what shares memory counts once."""
    weights = {param.untyped_storage().data_ptr() for param in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # alive, so that no address is taken twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return sum(storage.nbytes() for storage in kept.values())
