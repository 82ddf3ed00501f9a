"""Weights out of the learner: published for the workers, or into a folder for everybody else.

Publishers are the learner's end of the weight channel, one for each thing that may carry weights. Publishing is a
collective: every rank has to call it, for the same kinds in the same order, and the publication is complete when all
ranks have returned.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import ray
import torch
import torch.distributed as dist

from sdft_ray.config import Channel
from sdft_ray.learner.fragments import Fragment, assemble, fragments_in, index_by_name, parameter_shapes, place
from sdft_ray.models.state import published_buffers, saved_buffers
from sdft_ray.records import Bucket, ParameterEntry, Publication
from sdft_ray.tensors import dtype_name, synchronize, to_array, to_tensor
from sdft_ray.weights.buckets import bucket_elements, plan_buckets, unpack, views
from sdft_ray.weights.channel import Meeting, WeightKind
from sdft_ray.weights.memory_file import FILE_DTYPE, MemoryFile, MemoryHandle, map_memory, pin

Fragments = Callable[[], Iterator[Fragment]]
BUFFER_DTYPE = "float32"  # that of a publication's buffers, whatever the workers' is: see models/state.py


class Publisher(Protocol):
    """Makes a set of weights available to the workers."""

    def publish(self, kind: WeightKind, version: int, fragments: Fragments) -> Publication | None:
        """Handles of the weights on rank 0, None elsewhere."""
        ...

    def house(self, kind: WeightKind, owned: list[Fragment]) -> list[Fragment]:
        """Moves this rank's values to where publishing them costs least, and returns them; else returns `owned`."""
        ...


def make_publisher(channel: Channel, module: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> Publisher:
    """The publisher of a channel; `dtype` is that of the workers' weights, `device` where ranks exchange theirs."""
    if channel is Channel.SHARED_MEMORY:
        return SharedMemoryPublisher(module, dtype, device)
    return ObjectStorePublisher(module, dtype, device)


class ObjectStorePublisher:
    """Puts one bucket after the other into Ray's object store; any hardware, any number of nodes."""

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype, device: torch.device):
        self._module = module
        self._dtype = dtype
        self._device = device

    def publish(self, kind: WeightKind, version: int, fragments: Fragments) -> Publication | None:
        """See `Publisher`. The buckets live until the last handle is dropped."""
        buckets = [
            Bucket(dtype=dtype_name(self._dtype), entries=entries, array=ray.put(array))
            for entries, array in assembled(self._module, fragments, self._dtype, self._device)
        ]
        if dist.get_rank() != 0:
            return None
        buffers = [
            Bucket(dtype=BUFFER_DTYPE, entries=entries, array=ray.put(array), trains=False)
            for entries, array in packed_buffers(self._module)
        ]
        return Publication(version=version, buckets=(*buckets, *buffers))

    def house(self, kind: WeightKind, owned: list[Fragment]) -> list[Fragment]:
        """See `Publisher`: the object store never holds what still changes."""
        return owned


class SharedMemoryPublisher:
    """Writes into memory that the workers of this node map: one bucket, as large as the model, for each kind.

    Every rank writes the fragments it owns straight to their places, so ranks exchange no weights. The memory is
    written anew for every version; `WeightChannel` sees to it that no worker is still reading. What is kept in fp32 and
    whole in host memory lives there, so that publishing it moves nothing at all: the learner takes no step while
    weights are being loaded.
    """

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype, device: torch.device):
        (self._entries,) = plan_buckets(parameter_shapes(module), max_elements=sys.maxsize)
        self._dtype = dtype_name(dtype)
        self._device = device
        self._memory: dict[WeightKind, tuple[MemoryHandle, torch.Tensor]] = {}
        self._housed: set[WeightKind] = set()
        self._buffers = SharedBuffers(module)

    def publish(self, kind: WeightKind, version: int, fragments: Fragments) -> Publication | None:
        """See `Publisher`. The buckets hold this version until the next one of `kind` is published."""
        handle, flat = self._memory_of(kind)
        if kind not in self._housed:
            place(self._entries, fragments(), flat)
            synchronize(self._device)
        if dist.get_rank() != 0:
            return None
        parameters = Bucket(dtype=self._dtype, entries=self._entries, array=handle)
        return Publication(version=version, buckets=(parameters, *self._buffers.buckets()))

    def house(self, kind: WeightKind, owned: list[Fragment]) -> list[Fragment]:
        """See `Publisher`. What is on a GPU, or for workers in bf16, stays where it is."""
        if self._dtype != "float32" or self._device.type != "cpu":
            return owned
        _, flat = self._memory_of(kind)
        place(self._entries, owned, flat)
        self._housed.add(kind)
        begins = {entry.name: entry.offset for entry in self._entries}
        # Through NumPy, since a checkpoint of a tensor's view would hold all of the memory, in every rank's file.
        return [
            Fragment(name, start, to_tensor(flat[begins[name] + start :][: values.numel()].numpy()))
            for name, start, values in owned
        ]

    def _memory_of(self, kind: WeightKind) -> tuple[MemoryHandle, torch.Tensor]:
        """Memory of rank 0, mapped by every rank."""
        if kind in self._memory:
            return self._memory[kind]
        handles = [MemoryHandle("", "")]
        if dist.get_rank() == 0:
            num_bytes = bucket_elements(self._entries) * FILE_DTYPE[self._dtype].itemsize
            handles = [MemoryFile(num_bytes).handle]  # open as long as this process lives
        dist.broadcast_object_list(handles, src=0)
        array = map_memory(handles[0], self._dtype, writable=True)
        if self._device.type == "cuda":
            pin(array)
        self._memory[kind] = handles[0], to_tensor(array)
        return self._memory[kind]


class SharedBuffers:
    """The buffers of a network in memory that workers of this node map, on rank 0."""

    def __init__(self, module: torch.nn.Module):
        self._module = module
        self._memory: list[MemoryFile] = []  # written anew for every version; open as long as this process lives

    def buckets(self) -> Iterator[Bucket]:
        """One bucket with the buffers as they are now; none where a network has none."""
        for entries, array in packed_buffers(self._module):
            if not self._memory:
                self._memory.append(MemoryFile(array.nbytes))
            map_memory(self._memory[0].handle, BUFFER_DTYPE, writable=True)[:] = array
            yield Bucket(dtype=BUFFER_DTYPE, entries=entries, array=self._memory[0].handle, trains=False)


class DirectPublisher:
    """Sends the student's weights to the rollout engines, GPU to GPU; other weights are published as by `others`.

    Parameters only: what NCCL carries has one dtype. The engines have the model folder's buffers, which are the same.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        dtype: torch.dtype,
        device: torch.device,
        student: Fragments,
        meeting: Meeting,
        others: Publisher,
    ):
        """Returns when the engines have come to the meeting."""
        from sdft_ray.weights.nccl import LearnerEnd  # imports vLLM, which no other learner needs

        self._plan = plan_buckets(parameter_shapes(module))
        self._dtype = dtype
        self._device = device
        self._student = student
        self._others = others
        entries = [entry for plan in self._plan for entry in plan]
        self._end = LearnerEnd(dist.get_rank(), meeting, entries, dtype, self._parameters)

    def announcement(self, version: int) -> Publication:
        """What is sent, without its values."""
        name = dtype_name(self._dtype)
        return Publication(
            version=version, buckets=tuple(Bucket(dtype=name, entries=plan, array=None) for plan in self._plan)
        )

    def publish(self, kind: WeightKind, version: int, fragments: Fragments) -> Publication | None:
        """See `Publisher`."""
        if kind is not WeightKind.STUDENT:
            return self._others.publish(kind, version, fragments)
        self._end.send()
        return self.announcement(version) if dist.get_rank() == 0 else None

    def house(self, kind: WeightKind, owned: list[Fragment]) -> list[Fragment]:
        """See `Publisher`."""
        return self._others.house(kind, owned)

    def _parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        index = index_by_name(self._student())
        for entries in self._plan:
            flat = assemble(entries, fragments_in(entries, index), self._device).to(self._dtype)
            yield from views(entries, flat)


def assembled(
    module: torch.nn.Module, fragments: Fragments, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[tuple[ParameterEntry, ...], np.ndarray]]:
    """All weights bucket by bucket, with their values, on rank 0; every rank has to go through it."""
    index = index_by_name(fragments())
    for entries in plan_buckets(parameter_shapes(module)):
        flat = assemble(entries, fragments_in(entries, index), device)
        if dist.get_rank() == 0:
            yield entries, to_array(flat.to(dtype))


def full_state(
    module: torch.nn.Module, fragments: Fragments, dtype: torch.dtype, device: torch.device
) -> dict[str, torch.Tensor]:
    """All of a network's state in host memory on rank 0, empty elsewhere; every rank has to call it.

    Parameters in `dtype`, buffers in their own, as they are.
    """
    state: dict[str, torch.Tensor] = {}
    if dist.get_world_size() == 1 and dtype is torch.float32:  # the masters themselves, not copied
        shapes = dict(parameter_shapes(module))
        state |= {name: values.view(shapes[name]).cpu() for name, _, values in fragments()}
    else:
        for entries, array in assembled(module, fragments, dtype, device):
            state |= dict(unpack(Bucket(dtype=dtype_name(dtype), entries=entries, array=None), array))
    if dist.get_rank() == 0:
        state |= {name: buffer.cpu() for name, buffer in saved_buffers(module).items()}
    return state


def packed_buffers(module: torch.nn.Module) -> Iterator[tuple[tuple[ParameterEntry, ...], np.ndarray]]:
    """The floating buffers that are saved with a network, in fp32, in one bucket; nothing where it has none.

    They travel with every version: a few numbers a layer, so that who loads a publication holds all of it.
    """
    if buffers := published_buffers(module):
        (entries,) = plan_buckets(((name, tuple(value.shape)) for name, value in buffers.items()), sys.maxsize)
        flat = torch.cat([value.detach().float().cpu().view(-1) for value in buffers.values()])
        yield entries, to_array(flat)
