"""The channel of one node: the learner writes into memory that the other processes map by its path."""

import os
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from sdft_ray.errors import ClusterError
from sdft_ray.records import Bucket, ParameterEntry, Publication
from sdft_ray.tensors import dtype_name, synchronize, to_tensor
from sdft_ray.weights.buckets import BUFFER_DTYPE, bucket_elements, packed_buffers, plan_buckets
from sdft_ray.weights.channel import Ends, RankWeights, Sender, WeightKind
from sdft_ray.weights.fragments import Fragment, Shapes, place

# NumPy has no bfloat16
FILE_DTYPE: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}


class MemoryHandle(NamedTuple):
    """Where a `MemoryFile` is opened, and by which name it is known for the right one."""

    path: str
    name: str

    def open(self, dtype: str) -> np.ndarray:
        """See `ArrayHandle.open`."""
        return map_memory(self, dtype)

    @asynccontextmanager
    async def mapped(self) -> AsyncIterator[tuple[str, str]]:
        """See `ArrayHandle.mapped`: itself."""
        yield self


class MemoryFile:
    """A file in memory with no name in any folder.

    However its process ends, kill -9 among the ways, nothing is left behind, and the size of /dev/shm does not limit
    it.
    """

    def __init__(self, num_bytes: int):
        name = f"sdft_ray-{uuid.uuid4().hex}"
        self._descriptor = os.memfd_create(name)
        os.ftruncate(self._descriptor, num_bytes)
        self.handle = MemoryHandle(f"/proc/{os.getpid()}/fd/{self._descriptor}", name)

    @classmethod
    def holding(cls, array: np.ndarray) -> "MemoryFile":
        """A file with a copy of `array`."""
        memory = cls(array.nbytes)
        with open(memory._descriptor, "wb", closefd=False) as file:
            file.write(array.data)
        return memory

    def close(self) -> None:
        """Frees the memory once no process maps it any more."""
        os.close(self._descriptor)


def pin(array: np.ndarray, cuda: Any = torch.cuda) -> None:
    """Pins mapped memory of this process, so that its GPU writes there without a buffer in between or a wait.

    Raises:
        ClusterError: the driver refuses.
    """
    error = int(cuda.cudart().cudaHostRegister(array.ctypes.data, array.nbytes, 0))
    if error:
        raise ClusterError(
            f"weights.channel=SHARED_MEMORY: {socket.gethostname()} does not pin {array.nbytes / 2**30:.1f} GiB for "
            f"its GPU (CUDA error {error}); raise the limit on locked memory (ulimit -l), or set "
            "weights.channel=OBJECT_STORE."
        )


def map_memory(handle: MemoryHandle, dtype: str, *, writable: bool = False) -> np.ndarray:
    """The elements of a `MemoryFile`, in any process that can see its own; it lives until the last array of it goes.

    Args:
        handle: of the file.
        dtype: "float32" or "bfloat16"; the latter is mapped as uint16.
        writable: whether what is written is seen by everybody else who maps it.

    Raises:
        ClusterError: this process cannot see that memory.
    """
    try:
        found = os.readlink(handle.path)
    except OSError as error:
        found = str(error)
    if found != f"/memfd:{handle.name} (deleted)":  # a process of another node or container may have the same id
        raise ClusterError(
            f"weights.channel=SHARED_MEMORY: {socket.gethostname()} has no weights at {handle.path} ({found}): the "
            "process that holds them has ended, or is on another node or in another container; in the latter case "
            "set weights.channel=OBJECT_STORE."
        )
    return np.memmap(handle.path, dtype=FILE_DTYPE[dtype], mode="r+" if writable else "r")


class SharedMemorySender(Sender):
    """Writes into memory that the workers of this node map: one bucket, as large as the model, for each kind.

    Every rank writes the fragments it owns straight to their places, so ranks exchange no weights. The memory is
    written anew for every version; `WeightChannel` sees to it that no worker is still reading. What is kept in fp32 and
    whole in host memory lives there, so that publishing it moves nothing at all: the learner takes no step while
    weights are being loaded.
    """

    def __init__(self, weights: RankWeights):
        self._entries = {kind: one_bucket(weights.shapes_of(kind)) for kind in WeightKind}
        self._weights = weights
        self._dtype = dtype_name(weights.dtype)
        self._device = weights.device
        self._memory: dict[WeightKind, tuple[MemoryHandle, torch.Tensor]] = {}
        self._in_place: set[WeightKind] = set()
        self._buffers = SharedBuffers(weights.buffers)

    def publish(self, kind: WeightKind, version: int) -> Publication | None:
        """See `Sender`. The buckets hold this version until the next one of `kind` is published."""
        handle, flat = self._memory_of(kind)
        if kind not in self._in_place:
            place(self._entries[kind], self._weights.fragments(kind), flat)
            synchronize(self._device)
        if dist.get_rank() != 0:
            return None
        parameters = Bucket(dtype=self._dtype, entries=self._entries[kind], array=handle)
        return Publication(version=version, buckets=(parameters, *self._buffers.buckets()))

    def allocate(self, kind: WeightKind, owned: list[Fragment]) -> list[Fragment]:
        """See `Sender`. For values in host memory, and workers in fp32: see `WeightPlan.masters_in_place`."""
        _, flat = self._memory_of(kind)
        place(self._entries[kind], owned, flat)
        self._in_place.add(kind)
        begins = {entry.name: entry.offset for entry in self._entries[kind]}
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
            num_bytes = bucket_elements(self._entries[kind]) * FILE_DTYPE[self._dtype].itemsize
            handles = [MemoryFile(num_bytes).handle]  # open as long as this process lives
        dist.broadcast_object_list(handles, src=0)
        array = map_memory(handles[0], self._dtype, writable=True)
        if self._device.type == "cuda":
            pin(array)
        self._memory[kind] = handles[0], to_tensor(array)
        return self._memory[kind]


def one_bucket(shapes: Shapes) -> tuple[ParameterEntry, ...]:
    """Where each parameter lies in memory that holds all of them."""
    (entries,) = plan_buckets(shapes, max_elements=sys.maxsize)
    return entries


class SharedBuffers:
    """The buffers of a network in memory that workers of this node map, on rank 0."""

    def __init__(self, buffers: Callable[[], Mapping[str, torch.Tensor]]):
        self._buffers = buffers
        self._memory: list[MemoryFile] = []  # written anew for every version; open as long as this process lives

    def buckets(self) -> Iterator[Bucket]:
        """One bucket with the buffers as they are now; none where a network has none."""
        for entries, array in packed_buffers(self._buffers()):
            if not self._memory:
                self._memory.append(MemoryFile(array.nbytes))
            map_memory(self._memory[0].handle, BUFFER_DTYPE, writable=True)[:] = array
            yield Bucket(dtype=BUFFER_DTYPE, entries=entries, array=self._memory[0].handle, trains=False)


ENDS = Ends(SharedMemorySender)
