"""The fp32 master weights a rank owns, whatever the ZeRO stage, and how full parameters are made of them.

Every stage gives each rank a disjoint set of fragments (a parameter's name, where the fragment starts in the flat
parameter, and its values), which together cover all weights exactly once. The moving average is kept and updated on
the same fragments, and publishing assembles either set bucket by bucket: each rank writes its fragments into zeros
and one sum makes the whole. Nothing ever gathers more than one bucket.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist

from sdft_ray.records import ParameterEntry
from sdft_ray.tensors import one_thread
from sdft_ray.weights.buckets import bucket_elements


class Fragment(NamedTuple):
    """A part of one parameter."""

    name: str
    start: int  # its first element's place in the flat parameter
    values: torch.Tensor  # [elements] fp32; a view, not a copy


def parameter_shapes(module: torch.nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Names and full shapes of all parameters, tied ones once."""
    return [(name, full_shape(param)) for name, param in module.named_parameters()]


def full_shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """The shape of a parameter, also of one that ZeRO 3 has cut up."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def master_fragments(module: torch.nn.Module, rank: int, num_ranks: int) -> Iterator[Fragment]:
    """The fragments of the fp32 master weights that this rank owns."""
    for name, param in module.named_parameters():
        if hasattr(param, "ds_id"):
            fragment: Fragment | None = _zero3_fragment(name, param, rank)
        elif hasattr(param, "_hp_mapping"):
            fragment = _zero12_fragment(name, param)
        else:
            fragment = _replicated_fragment(name, param, rank, num_ranks)
        if fragment is not None and fragment.values.numel() > 0:
            yield fragment


def _zero3_fragment(name: str, param: torch.nn.Parameter, rank: int) -> Fragment:
    """ZeRO 3 cuts every parameter into equal parts, the last one padded."""
    from deepspeed.utils import safe_get_local_fp32_param

    local = safe_get_local_fp32_param(param).view(-1)
    start = rank * local.numel()
    return Fragment(name, start, local[: max(0, param.ds_numel - start)])  # type: ignore[attr-defined]


def _zero12_fragment(name: str, param: torch.nn.Parameter) -> Fragment | None:
    """ZeRO 1 and 2 cut the flat sequence of all parameters; a rank may hold none of one."""
    mapping = param._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return None
    return Fragment(name, mapping.lp_fragment_address.start, mapping.get_hp_fragment().view(-1))


def _replicated_fragment(name: str, param: torch.nn.Parameter, rank: int, num_ranks: int) -> Fragment:
    """Without ZeRO every rank holds all of a parameter and owns an equal part of it."""
    size = -(-param.numel() // num_ranks)
    return Fragment(name, rank * size, param.data.view(-1)[rank * size : (rank + 1) * size])


def move_parameters(module: torch.nn.Module, house: Callable[[list[Fragment]], list[Fragment]]) -> None:
    """Keeps the weights of a rank that holds all of them, whole, from now on where `house` copies them to."""
    parameters = dict(module.named_parameters())
    for name, _, values in house(list(master_fragments(module, rank=0, num_ranks=1))):
        parameters[name].data = values.view_as(parameters[name])


def index_by_name(fragments: Iterable[Fragment]) -> dict[str, list[Fragment]]:
    """The fragments of every parameter: made once for all buckets of a set of weights, which then need not scan it."""
    index: dict[str, list[Fragment]] = {}
    for fragment in fragments:
        index.setdefault(fragment.name, []).append(fragment)
    return index


def fragments_in(entries: tuple[ParameterEntry, ...], index: dict[str, list[Fragment]]) -> Iterator[Fragment]:
    """Those of one bucket that this rank owns."""
    for entry in entries:
        yield from index.get(entry.name, ())


def assemble(
    entries: tuple[ParameterEntry, ...],
    fragments: Iterable[Fragment],
    device: torch.device,
    *,
    on_all_ranks: bool = False,
) -> torch.Tensor:
    """The full fp32 values of one bucket; every rank has to call it for the same bucket.

    Returns:
        [elements] on rank 0; what the other ranks get is not defined, unless `on_all_ranks` gives it to them, too.
    """
    flat = torch.zeros(bucket_elements(entries), dtype=torch.float32, device=device)
    place(entries, fragments, flat)
    if dist.get_world_size() > 1:
        # Fragments are disjoint, so the sum only puts them side by side, exactly.
        if on_all_ranks:
            dist.all_reduce(flat)
        else:
            dist.reduce(flat, dst=0)
    return flat


def place(entries: tuple[ParameterEntry, ...], fragments: Iterable[Fragment], flat: torch.Tensor) -> None:
    """Writes those of the fragments that belong to `entries` to their places in `flat`, in its dtype.

    From a GPU into pinned memory the copies are under way when this returns.
    """
    offsets = {entry.name: entry.offset for entry in entries}
    with one_thread():
        for fragment in fragments:
            if fragment.name in offsets:
                begin = offsets[fragment.name] + fragment.start
                flat[begin : begin + fragment.values.numel()].copy_(fragment.values, non_blocking=True)
