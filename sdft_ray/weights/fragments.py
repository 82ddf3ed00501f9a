"""ZeRO shards: the fp32 weights a rank owns, their moving average, and how full parameters are made of them.

Every stage gives each rank a disjoint set of fragments (a parameter's name, where the fragment starts in the flat
parameter, and its values), which together cover all weights exactly once. The teacher's weights, an exponential moving
average (EMA) of the student's in fp32, are kept and updated on the same fragments (docs/method.md). Publishing
assembles either set bucket by bucket: each rank writes its fragments into zeros and one sum makes the whole. Nothing
ever gathers more than one bucket.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

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


class TeacherAverage:
    """ema_decay * old + (1 - ema_decay) * student after every optimizer step."""

    def __init__(self, student: Iterable[Fragment], ema_decay: float):
        self._ema_decay = ema_decay
        self._fragments = [
            Fragment(name, start, values.detach().to(torch.float32, copy=True)) for name, start, values in student
        ]

    def update(self, student: Iterable[Fragment]) -> None:
        """One step of the average; `student` yields the same fragments in the same order every time."""
        with one_thread():
            for own, new in zip(self._fragments, student, strict=True):
                blend(own.values, new.values, self._ema_decay)

    def rebase(self, student: Iterable[Fragment]) -> None:
        """Makes the average the student itself, from which a stage begins."""
        with one_thread():
            for own, new in zip(self._fragments, student, strict=True):
                own.values.copy_(new.values)

    def move(self, allocate: Callable[[list[Fragment]], list[Fragment]]) -> None:
        """Keeps the average from now on where `allocate` copies it to."""
        self._fragments = allocate(self._fragments)

    def fragments(self) -> Iterator[Fragment]:
        """The averaged weights of this rank."""
        return iter(self._fragments)

    def restore(self, read: Callable[[str, int, int], torch.Tensor]) -> None:
        """Takes over saved values; `read` takes parameter, start and number of elements to values [elements]."""
        for name, start, values in self._fragments:
            values.copy_(read(name, start, values.numel()))


def blend(ema: Tensor, student: Tensor, ema_decay: float) -> None:
    """Moves the average towards the student, in place: ema = ema_decay * ema + (1 - ema_decay) * student.

    After n steps towards a resting student 1 - ema_decay**n of the gap is closed. Where student and average
    agree the average does not move by a single bit, and ema_decay 1 and 0 give exactly the old average and
    the student.

    Args:
        ema: [...] fp32, changed in place.
        student: [...], any floating dtype; the fp32 master weights where there are any. Not changed.
        ema_decay: the share of the OLD average that is kept, in [0, 1]; the paper's alpha is 1 - ema_decay.

    Raises:
        TypeError: ema is not fp32.
        ValueError: ema_decay is outside [0, 1], or the shapes differ.
    """
    if ema.dtype != torch.float32:
        raise TypeError(
            f"ema has dtype {ema.dtype}, but the average must be kept in torch.float32: in bf16 a step of "
            "1 % is rounded away and the teacher silently stands still; keep fp32, cast when publishing"
        )
    if not 0.0 <= ema_decay <= 1.0:
        raise ValueError(
            f"ema_decay={ema_decay} must lie in [0, 1]: it is the share of the OLD teacher that is kept; "
            "for the paper's alpha of 0.01 give 0.99"
        )
    if ema.shape != student.shape:
        raise ValueError(
            f"ema {list(ema.shape)} and student {list(student.shape)} must have one shape: an empty or "
            "flat student is a ZeRO-3 shard that was not gathered"
        )
    with torch.no_grad():
        # lerp rather than mul and add: it is exact at both ends and where both agree, so nothing drifts by
        # rounding.
        ema.lerp_(student.to(torch.float32), 1.0 - ema_decay)
