"""Slurm's own commands, with failures told apart by whether asking again helps."""

import re
import subprocess
from pathlib import Path

from sdft_ray.errors import ClusterError
from sdft_ray.targets.jobs import Unreachable

TIMEOUT_S = 60
PASSING = re.compile(r"unable to contact slurm|socket timed out|connection refused|timed out|try again", re.IGNORECASE)
NO_CONFIGURATION = re.compile(r"establish a configuration source|fetch_config|DNS SRV lookup failed")
GONE = "Invalid job id"


def sbatch(script: Path, comment: str) -> str:
    """Hands a script over, to run in this process's folder and environment; returns the id of the job."""
    said = _run("sbatch", "--parsable", f"--comment={comment}", f"--chdir={Path.cwd()}", str(script))
    return said.strip().partition(";")[0]


def find(name: str, comment: str) -> str:
    """The id of one's own job of this name and comment that has not ended; "" where there is none."""
    lines = _run("squeue", "--me", "--noheader", f"--name={name}", "--format=%A|%k").splitlines()
    found = [line.partition("|")[0] for line in lines if line.partition("|")[2] == comment]
    return found[0].strip() if found else ""


def state(job: str) -> tuple[str, str]:
    """State and reason of a job in Slurm's words; ("", "") of one that its controller has forgotten."""
    try:
        said = _run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r").strip()
    except ClusterError as error:
        if GONE not in str(error):
            raise
        said = ""
    word, _, reason = said.splitlines()[0].partition("|") if said else ("", "", "")
    return word, "" if reason == "None" else reason


def recorded_state(job: str) -> str:
    """The state in Slurm's accounting; "" where none is kept."""
    try:
        said = _run("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State")
    except ClusterError:  # accounting is an option of a site
        return ""
    return (said.split() or [""])[0]


def scancel(job: str, *, signal: str = "") -> None:
    """Ends a job; with a signal tells its batch script alone."""
    _run("scancel", *([f"--signal={signal}", "--batch"] if signal else []), job)


def _run(program: str, *arguments: str) -> str:
    """What a command prints.

    Raises:
        Unreachable: the controller does not answer.
        ClusterError: there is no Slurm here, no configuration of one, or it refuses.
    """
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError as error:
        problem = "is not installed, or not on the PATH; target=slurm works on a machine that submits jobs"
        raise ClusterError(f"{program} {problem}.") from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"{program}: no answer in {TIMEOUT_S} s.") from error
    if done.returncode == 0:
        return done.stdout
    if NO_CONFIGURATION.search(done.stderr):
        problem = "finds no slurm.conf here; submit from a machine that has one, or set SLURM_CONF"
        raise ClusterError(f"{program} {problem} ({done.stderr.strip().splitlines()[-1]}).")
    said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
    raise (Unreachable if PASSING.search(said) else ClusterError)(f"{program}: {said}")
