"""The processes of an engine end with the worker they belong to, however that ends, and stopped ones as well."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

# What vLLM does: a worker starts the engine's core, which is a rank by itself, or starts one (tensor parallelism).
TREE = """
    import multiprocessing, sys, time

    def rank():
        from sdft_ray.inference.engine_process import leave_nothing_behind
        leave_nothing_behind()
        print("up", flush=True)
        time.sleep(600)

    def core():
        multiprocessing.get_context("spawn").Process(target=rank).start()
        time.sleep(600)

    if __name__ == "__main__":
        from sdft_ray.inference.engine_process import begin_engine, leave_nothing_behind
        begin_engine()
        leave_nothing_behind()  # where the worker imports what its engine will
        multiprocessing.get_context("spawn").Process(target={"core": core, "rank": rank}[sys.argv[1]]).start()
        time.sleep(600)
"""


@pytest.mark.parametrize("child", ["rank", "core"])
@pytest.mark.parametrize("stopped", [False, True], ids=["awake", "stopped"])
def test_an_engine_ends_with_its_killed_worker(tmp_path: Path, child: str, stopped: bool) -> None:
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(TREE))
    worker = subprocess.Popen([sys.executable, script, child], stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None and worker.stdout.readline() == "up\n"
        engine = [process for process in psutil.Process(worker.pid).children(recursive=True) if is_spawned(process)]
        assert len(engine) == {"rank": 1, "core": 2}[child]
        if stopped:
            os.kill(engine[0].pid, signal.SIGSTOP)
        worker.kill()
        worker.wait()
        assert not psutil.wait_procs(engine, timeout=30)[1]
    finally:
        worker.kill()
        worker.wait()


# An engine that imports for seconds while its worker is killed, whose parent does not reap it, and adopts the engine.
ORPHAN = """
    import ctypes, multiprocessing, os, subprocess, sys, time
    import psutil
    from sdft_ray.inference.engine_process import begin_engine, leave_nothing_behind

    def engine(worker):
        print(os.getpid(), flush=True)
        while psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        leave_nothing_behind()
        time.sleep(600)

    if __name__ == "__main__":
        if sys.argv[1] == "worker":
            begin_engine()
            multiprocessing.get_context("spawn").Process(target=engine, args=(os.getpid(),)).start()
            time.sleep(600)
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        worker = subprocess.Popen([sys.executable, __file__, "worker"], stdout=subprocess.PIPE, text=True)
        engine = int(worker.stdout.readline())
        worker.kill()
        while psutil.Process(engine).ppid() != os.getpid():
            time.sleep(0.01)
        os.waitpid(engine, 0)
        print("ended", flush=True)
"""


def test_an_engine_whose_worker_has_died_while_it_started_ends_alone(tmp_path: Path) -> None:
    script = tmp_path / "adopter.py"
    script.write_text(textwrap.dedent(ORPHAN))
    done = subprocess.run([sys.executable, script, "adopter"], stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ended\n"), "it has killed who has adopted it"


def is_spawned(process: psutil.Process) -> bool:
    return "spawn_main" in " ".join(process.cmdline())
