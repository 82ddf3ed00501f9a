import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdft_ray.errors import ClusterError
from sdft_ray.weights.shared_memory import MemoryFile, MemoryHandle, map_memory, pin


def in_another_process(code: str) -> str:
    header = "from sdft_ray.weights.shared_memory import MemoryFile, MemoryHandle, map_memory; import numpy; "
    return subprocess.check_output([sys.executable, "-c", header + code], text=True).strip()


def test_another_process_reads_what_is_written_again_and_again_to_the_same_memory():
    memory = MemoryFile(4000)
    array = map_memory(memory.handle, "float32", writable=True)
    for factor in (1, 2):
        array[:] = factor * np.arange(1000)
        assert in_another_process(f"print(map_memory({memory.handle!r}, 'float32').sum())") == f"{factor * 499500.0}"
    memory.close()


def test_another_process_writes_where_it_is_allowed_to():
    memory = MemoryFile(8)
    in_another_process(f"map_memory({memory.handle!r}, 'bfloat16', writable=True)[2] = 7")
    assert map_memory(memory.handle, "bfloat16").tolist() == [0, 0, 7, 0]
    memory.close()


def test_what_is_mapped_outlives_the_file_and_nothing_else_is_left():
    memory = MemoryFile.holding(np.arange(1000, dtype=np.uint16))
    descriptors = len(os.listdir("/proc/self/fd"))
    mapped = map_memory(memory.handle, "bfloat16")
    memory.close()
    assert mapped[999] == 999
    del mapped
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1
    with pytest.raises(ClusterError, match="weights.channel=OBJECT_STORE"):
        map_memory(memory.handle, "bfloat16")


def test_memory_of_another_process_with_the_same_path_is_not_taken_for_the_right_one():
    memory = MemoryFile(8)
    with pytest.raises(ClusterError, match="memfd:sdft_ray-"):
        map_memory(MemoryHandle(memory.handle.path, "sdft_ray-of-another-node"), "float32")
    memory.close()


def test_a_reader_that_is_killed_leaves_the_memory_to_the_others():
    memory = MemoryFile(8)
    array = map_memory(memory.handle, "float32", writable=True)
    code = (
        "from sdft_ray.weights.shared_memory import *; import time; "
        f"mapped = map_memory({memory.handle!r}, 'float32'); print('mapped', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "mapped\n"
        reader.send_signal(signal.SIGKILL)
    array[:] = 3
    assert map_memory(memory.handle, "float32").tolist() == [3, 3]
    memory.close()


def test_a_killed_process_leaves_no_memory_behind_but_what_others_still_map():
    code = (
        "from sdft_ray.weights.shared_memory import MemoryFile; import numpy, time; "
        "memory = MemoryFile.holding(numpy.arange(5, dtype='float32')); "
        "print(*memory.handle, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        handle = MemoryHandle(*owner.stdout.readline().split())
        mapped = map_memory(handle, "float32")
        owner.send_signal(signal.SIGKILL)
    assert mapped.tolist() == [0, 1, 2, 3, 4]
    assert handle.name in Path("/proc/self/maps").read_text()
    del mapped
    assert handle.name not in Path("/proc/self/maps").read_text()
    assert not [name for name in os.listdir("/dev/shm") if "sdft_ray" in name]


class FakeCuda:
    """A driver that is asked to pin memory, and answers with an error code."""

    def __init__(self, error: int):
        self.error = error
        self.pinned: list[tuple[int, int, int]] = []

    def cudart(self) -> "FakeCuda":
        return self

    def cudaHostRegister(self, *memory: int) -> int:
        self.pinned.append(memory)
        return self.error


def test_all_of_the_mapped_memory_is_pinned_or_refused_with_a_remedy() -> None:
    memory = MemoryFile(4096)
    array = map_memory(memory.handle, "bfloat16", writable=True)
    driver = FakeCuda(error=0)
    pin(array, driver)
    assert driver.pinned == [(array.ctypes.data, 4096, 0)]
    with pytest.raises(ClusterError, match=r"CUDA error 2\); .*set weights.channel=OBJECT_STORE"):
        pin(array, FakeCuda(error=2))
    memory.close()
