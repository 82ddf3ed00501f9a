"""Tensors as read-only NumPy arrays and back, without a copy: the form in which they cross a process.

Ray moves a NumPy array through shared memory at the speed of one copy and a torch tensor five times slower, so
bfloat16, which NumPy lacks, travels as its bit pattern in uint16.
"""

import ctypes
import mmap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

PAGE, MADV_DONTNEED = mmap.PAGESIZE, mmap.MADV_DONTNEED
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs the block's operations on CPU tensors on one thread.

    For what does little more than move memory, tensor after tensor: one thread does that at the memory's speed, while
    several wait for each other at the end of every tensor, and wait long where other processes use the same cores.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def synchronize(device: torch.device) -> None:
    """Returns when the device has done all it was given, so that a clock read next tells how long that took."""
    if device.type != "cpu":  # which has done it when a call returns
        torch.accelerator.synchronize(device)


def peak_gpu_memory_gib() -> float:
    """The most GPU memory that this process's torch has ever reserved [GiB]; 0.0 where it has used no GPU."""
    return torch.cuda.max_memory_reserved() / 2**30 if torch.cuda.is_initialized() else 0.0


def release_freed_memory() -> None:
    """Gives this process's freed memory back to the system, which glibc may have been told to keep."""
    ctypes.CDLL(None).malloc_trim(0)


def release_pages(tensor: torch.Tensor) -> None:
    """Gives the memory of a CPU tensor's storage back to the system; it holds zeros then, and is there when written to.

    Of memory that others map nothing is given back, and the first and last page stay: others may lie on them.

    Raises:
        OSError: the system refuses.
    """
    storage = tensor.untyped_storage()
    begin = -(-storage.data_ptr() // PAGE) * PAGE
    num_bytes = (storage.data_ptr() + storage.nbytes()) // PAGE * PAGE - begin
    if num_bytes <= 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(num_bytes), MADV_DONTNEED):
        raise OSError(ctypes.get_errno(), f"madvise of {num_bytes} bytes")


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device; itself where it is there. On the host it is pinned: GPUs read that at the link's speed.

    Never run on a GPU.
    """
    if tensor.device.type == device.type:
        return tensor
    if device.type != "cpu":
        return tensor.to(device, non_blocking=True)
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)


def dtype_name(dtype: torch.dtype) -> str:
    """The name under which a dtype travels."""
    return str(dtype).removeprefix("torch.")


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """A view of a CPU tensor (a copy of one on another device)."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """A view of the array; uint16 is read as bfloat16. The result must not be written to: it may be shared memory."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        if array.dtype == np.uint16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)
