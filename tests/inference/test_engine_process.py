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


def is_spawned(process: psutil.Process) -> bool:
    return "spawn_main" in " ".join(process.cmdline())
