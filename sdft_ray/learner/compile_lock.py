"""What a killed compiler leaves behind: a lock file of torch's, at which every later compiler waits without end.

DeepSpeed compiles an extension at its first use, and torch guards every loading of it by a file `lock` that is there or
not. The file names no owner, but its owner keeps it open, and /proc lists the open files of this user's processes.
An owner is missing from that list if it is on another machine, in another container, or another user's. Where that is
possible, only the age of the file tells a dead owner from a living one.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from torch.utils.cpp_extension import get_default_build_root

from sdft_ray.errors import ClusterError

LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs"}  # file systems that no other machine sees
AGE_S = 2.0  # of a lock without an owner, where /proc would list the owner
UNSEEN_AGE_S = 600.0  # the same where /proc may not list the owner; compiling takes 15 s to minutes
HOST_PID_NAMESPACE = 0xEFFFFFFC  # inode of the machine's first PID namespace, a constant of Linux (PROC_PID_INIT_INO)
PATIENCE_S = 1200.0


def clear_compile_locks() -> None:
    """Returns once no DeepSpeed extension of this user is locked; removes the locks of dead owners, and says so.

    Raises:
        ClusterError: an owner that is alive holds a lock for more than 20 minutes.
    """
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    folders = [Path(given)] if given else Path(get_default_build_root()).glob("*")
    for folder in folders:
        for lock in sorted(folder.glob("deepspeed_*/lock")):
            _clear(lock)


def _clear(lock: Path) -> None:
    owner_is_said, deadline = False, time.monotonic() + PATIENCE_S
    while (before := _identity(lock)) is not None:
        owner = next(_owners(lock), None)
        age_s = time.time() - before[1] / 1e9
        needed_s = AGE_S if _shows_its_owner(lock) else UNSEEN_AGE_S
        if owner is None and age_s >= needed_s and _identity(lock) == before:
            lock.unlink(missing_ok=True)
            print(f"removed {lock}: the process that compiled DeepSpeed's extension under it is dead", flush=True)
            return
        holder = f"process {owner}" if owner else "a process that is not visible from here, or that is dead"
        if not owner_is_said:
            owner_is_said = True
            limit = "" if owner else f"; the file is removed once it is {needed_s:.0f} s old"
            print(f"waiting for {lock}, held by {holder}{limit}", flush=True)
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{lock}: {holder} has held this lock of DeepSpeed's compiler for {PATIENCE_S / 60:.0f} minutes; "
                "end that process, or remove the file if it compiles nothing."
            )
        time.sleep(0.2)


def _identity(lock: Path) -> tuple[int, int] | None:
    """Inode and time of the file, None where there is none: a new lock is another file under the same name."""
    try:
        status = lock.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _owners(lock: Path) -> Iterator[int]:
    """Processes that have the file open, of those whose files this user may see."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(entry.path) for entry in os.scandir(process / "fd")]
        except OSError:  # it has ended, or is another user's
            continue
        if str(lock.resolve()) in files:
            yield int(process.name)


def _shows_its_owner(lock: Path) -> bool:
    """True when /proc would list the owner of the file: a process of this machine, of this user, and visible from here.

    From the machine's first PID namespace all processes are visible. From a container's only its own are, while the
    folder may be a volume that other containers write to as well.
    """
    try:
        is_ours = lock.stat().st_uid == os.geteuid()
    except FileNotFoundError:
        return False
    return is_ours and Path("/proc/self/ns/pid").stat().st_ino == HOST_PID_NAMESPACE and _is_local(lock)


def _is_local(lock: Path) -> bool:
    """True when no other machine can hold the file."""
    path = lock.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if path.is_relative_to(mount.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype in LOCAL
