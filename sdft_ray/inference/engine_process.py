"""The processes of an engine leave nothing behind, however they or their worker end: no process, no file.

vLLM's engine does not notice that the process which started it is gone, and would keep the memory of its GPU. Ray ends
it with its worker, unless the raylet of the node has died first.
"""

import ctypes
import os
import select
import signal
import threading

import psutil
from tqdm import tqdm

WORKER = "SDFT_ENGINE_OF"  # the environment variable with the process id of the worker that starts an engine
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def begin_engine() -> None:
    """Has the processes that this worker starts from now on know whose they are."""
    os.environ[WORKER] = str(os.getpid())


def leave_nothing_behind() -> None:
    """Has this process end with its worker; to be called in its main thread, by import. A worker's own goes on."""
    # The first bar of a process makes a lock across processes, in a spawned one a file in /dev/shm that stays where the
    # process is killed. An engine's processes call this before their first bar, and share no bar with another process.
    tqdm.set_lock(threading.RLock())
    worker = int(os.environ.get(WORKER, os.getpid()))
    if worker == os.getpid():
        return
    parent = os.getppid()
    if worker not in (
        parent,
        psutil.Process(parent).ppid(),
    ):  # it has ended, and who has taken its children is nobody's
        os.kill(os.getpid(), signal.SIGKILL)
    # The kernel's doing, since a process that is stopped, or hangs in a call to its GPU, looks after nothing itself.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl cannot set the signal at the parent's death")
    if os.getppid() != parent:  # it has ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)
    if parent != worker:  # a tensor-parallel rank, below the engine's core, which imports nothing of ours
        ends = os.pidfd_open(worker)
        threading.Thread(target=_end_core, args=(parent, ends), name="end-with-worker", daemon=True).start()


def _end_core(core: int, worker_ends: int) -> None:
    """Waits for the worker's end and kills the core, with which the kernel ends this process."""
    watched = select.poll()
    watched.register(worker_ends, select.POLLIN)
    watched.poll()
    os.kill(core, signal.SIGKILL)
