"""ZeRO shards: the fp32 weights a rank owns, whatever the stage, and how full parameters are made of them.

Every stage gives each rank a disjoint set of fragments (a parameter's name, where the fragment starts in the flat
parameter, and its values), which together cover all weights exactly once. The moving average is kept and updated on
the same fragments, and publishing assembles either set bucket by bucket: each rank writes its fragments into zeros
and one sum makes the whole. Nothing ever gathers more than one bucket.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from sdft_ray.records import ParameterEntry
from sdft_ray.tensors import one_thread, to_array
from sdft_ray.weights.buckets import plan_buckets

Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # names and full shapes of all parameters, tied ones once


class Fragment(NamedTuple):
    """A part of one parameter."""

    name: str
    start: int  # its first element's place in the flat parameter
    values: torch.Tensor  # [elements] fp32; a view, not a copy


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
    flat = torch.zeros(entries[-1].end, dtype=torch.float32, device=device)
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


def assembled(
    shapes: Shapes, fragments: Iterable[Fragment], dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[tuple[ParameterEntry, ...], np.ndarray]]:
    """All weights bucket by bucket, with their values in `dtype`, on rank 0; every rank has to go through it."""
    index = index_by_name(fragments)
    for entries in plan_buckets(shapes):
        flat = assemble(entries, fragments_in(entries, index), device)
        if dist.get_rank() == 0:
            yield entries, to_array(flat.to(dtype))
