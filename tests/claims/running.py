"""The runs of the arms, two at a time on a thread each; a finished one is kept, so an interrupted sequence goes on.

Half of a short run is the start of processes, which takes one core: two runs beside each other share two cores better
than one run whose roles have two threads each.
"""

import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from sdft_ray.tracking.summary import read_summary
from tests.benchmarks.processes import ROOT
from tests.claims.arms import ARMS, SEEDS, Arm

RUNS = ROOT / "runs" / "claims"
NUM_AT_ONCE = 2
BASE = (
    "+cluster=local",
    *(f"cluster.{role}.threads_per_worker=1" for role in ("rollout", "teacher", "learner")),
    "+experiment=claims",
)


def run_folder(arm: Arm, seed: int) -> Path:
    """Where a run of an arm lies."""
    return RUNS / f"{arm.name}-seed-{seed}"


def is_finished(folder: Path) -> bool:
    """Whether a run came to its end: the summary is the last thing it writes."""
    return read_summary(folder) is not None


def run_all() -> None:
    """Runs what has not finished yet, seed after seed, so that all arms have one before any has two.

    Raises:
        SystemExit: a run failed; the others are ended, and those that have finished are kept.
    """
    wanted = [(arm, seed) for seed in SEEDS for arm in ARMS]
    missing = [(arm, seed) for arm, seed in wanted if not is_finished(run_folder(arm, seed))]
    print(f"{len(wanted) - len(missing)} of {len(wanted)} runs have finished", flush=True)
    RUNS.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    started: list[subprocess.Popen[bytes]] = []
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        runs = [pool.submit(_run, arm, seed, started) for arm, seed in missing]
        try:
            for run in as_completed(runs):
                print(run.result(), flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in started:
                process.terminate()
            raise


def _run(arm: Arm, seed: int, started: list[subprocess.Popen[bytes]]) -> str:
    """One run from its beginning, since half of one that was interrupted is of no use; what it took."""
    folder, began = run_folder(arm, seed), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    log = folder.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(_command(arm, seed), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        started.append(process)
        code = process.wait()
    if code:
        sys.exit(f"{folder.name} ended with {code}; its output: {log}\n{log.read_text()[-2000:]}")
    shutil.rmtree(folder / "model")  # half a gigabyte that no claim needs
    return f"{folder.name}: {(time.monotonic() - began) / 60:.1f} min"


def _command(arm: Arm, seed: int) -> list[str]:
    folder = run_folder(arm, seed)
    own = [f"seed={seed}", f"runs_dir={folder.parent}", f"name={folder.name}"]
    return [sys.executable, "-m", "sdft_ray.launch", *BASE, *arm.settings, *own]
