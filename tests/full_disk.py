"""Disks that are full: for this process by a limit of the kernel's, or for all by a small file system."""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def no_file_beyond(num_bytes: int) -> Iterator[None]:
    """Writing beyond that size fails in this process, as on a full disk; needs no rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_file_system(folder: Path, num_kib: int) -> Iterator[Path]:
    """A file system of its own at `folder`; the test is skipped where this user may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={num_kib}k", "tmpfs", str(folder)])
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
