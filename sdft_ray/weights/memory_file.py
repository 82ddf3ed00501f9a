"""Memory of one process that other processes of the same user on the same node map by its path."""

import os
import socket
import uuid
from typing import Any, NamedTuple

import numpy as np
import torch

from sdft_ray.errors import ClusterError

# NumPy has no bfloat16
FILE_DTYPE: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}


class MemoryHandle(NamedTuple):
    """Where a `MemoryFile` is opened, and by which name it is known for the right one."""

    path: str
    name: str


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
