"""Where ZeRO keeps the parts of one parameter on a rank: master, gradient, moments. Part of the wall to DeepSpeed."""

from collections.abc import Iterator
from typing import Any

import torch
from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_grad

from sdft_ray.weights.fragments import Fragment


def master_fragment(name: str, param: torch.nn.Parameter, rank: int, num_ranks: int) -> Fragment | None:
    """What a rank owns of one parameter's fp32 master, by what ZeRO hangs on the parameter; None for nothing."""
    if hasattr(param, "ds_id"):  # ZeRO 3 cuts every parameter into equal parts, the last one padded
        local = safe_get_local_fp32_param(param).view(-1)
        start = rank * local.numel()
        return Fragment(name, start, local[: max(0, param.ds_numel - start)])  # type: ignore[attr-defined]
    if hasattr(param, "_hp_mapping"):  # ZeRO 1 and 2 cut the flat sequence of all parameters
        mapping = param._hp_mapping
        if mapping is None:
            return None
        return Fragment(name, mapping.lp_fragment_address.start, mapping.get_hp_fragment().view(-1))
    size = -(-param.numel() // num_ranks)  # without ZeRO every rank holds all of it, and owns an equal part
    return Fragment(name, rank * size, param.data.view(-1)[rank * size : (rank + 1) * size])


def optimizer_place(optimizer: Any, param: torch.nn.Parameter, start: int) -> tuple[torch.Tensor, int]:
    """The tensor by which an optimizer files the moments of one parameter, and where a fragment's begin in them."""
    if hasattr(param, "ds_id"):
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(param)]
        return optimizer.fp32_partitioned_groups_flat[group], offset
    if hasattr(param, "_hp_mapping"):
        mapping = param._hp_mapping
        # ZeRO 1 in bf16 is another class of DeepSpeed's than ZeRO 2.
        name = "single_partition_of_fp32_groups"
        flats = getattr(optimizer, name if hasattr(optimizer, name) else "fp32_groups_flat_partition")
        return flats[mapping.param_group_index], mapping.get_hp_fragment_address().start
    return param, start


def own_gradients(param: torch.nn.Parameter) -> Iterator[torch.Tensor]:
    """What this rank holds of a parameter's gradient, by what ZeRO hangs on the parameter."""
    if param.grad is not None:
        yield param.grad
    if hasattr(param, "_hp_grad"):  # the fp32 sum of stage 1 in bf16
        yield param._hp_grad
    elif hasattr(param, "ds_id"):
        yield safe_get_local_grad(param)
    elif getattr(param, "_hp_mapping", None) is not None:
        yield param._hp_mapping.get_lp_grad_fragment(param._index_in_param_group)  # type: ignore[attr-defined]
