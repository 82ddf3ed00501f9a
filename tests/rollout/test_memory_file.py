import os
import subprocess
import sys

import numpy as np
import pytest

from sdft_ray.rollout.memory_file import MemoryFile


def test_another_process_reads_the_array():
    file = MemoryFile(np.arange(1000, dtype=np.float32))
    read = f"import numpy; print(numpy.memmap({file.path!r}, dtype='float32', mode='r').sum())"
    assert subprocess.check_output([sys.executable, "-c", read], text=True).strip() == "499500.0"
    file.close()


def test_what_is_mapped_outlives_the_file_and_nothing_else_is_left():
    file = MemoryFile(np.arange(1000, dtype=np.uint16))
    mapped = np.memmap(file.path, dtype=np.uint16, mode="r")
    descriptors = len(os.listdir("/proc/self/fd"))
    file.close()
    assert mapped[999] == 999
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1
    with pytest.raises(FileNotFoundError):
        os.stat(file.path)
