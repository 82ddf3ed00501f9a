"""How a rollout actor hands an array to the engine's own processes."""

import os

import numpy as np


class MemoryFile:
    """An array as a file in memory, for other processes of this user on this node.

    It has no name in any folder: a crash leaves nothing behind, and the size of /dev/shm does not limit it.
    """

    def __init__(self, array: np.ndarray):
        self._descriptor = os.memfd_create("sdft_ray-bucket")
        with open(self._descriptor, "wb", closefd=False) as file:
            file.write(array.data)

    @property
    def path(self) -> str:
        """Where other processes open it, until `close`."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def close(self) -> None:
        """Frees the memory once no process maps it any more."""
        os.close(self._descriptor)
