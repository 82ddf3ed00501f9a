"""mode=submit, status, logs and stop on the terminal; each ends with the exit code of the job's state."""

import asyncio
import re
import sys
from collections.abc import Callable, Sequence

from sdft_ray.config import TargetConfig, TargetKind
from sdft_ray.launch.composing import Stage
from sdft_ray.targets.following import Follower, Pace
from sdft_ray.targets.jobs import JobClient, JobState, JobStatus, job_name, name_of

LACKS_PACKAGES = re.compile(
    r"No module named '?(sdft_ray|hydra|omegaconf|ray|torch|transformers|vllm|deepspeed|yaml|rich)\b"
)
QUESTION = "Ctrl-C: stop the job (s), or leave it running (any other key, or Ctrl-C again)? "


def submit_job(runs: Sequence[Sequence[Stage]]) -> int:
    """Hands a job over, or finds it there, and follows it.

    Raises:
        ConfigError: another job has its name, or a setting has no meaning there.
        ClusterError: the target refuses it, or nobody answers.
    """
    _, cfg = runs[0][0]
    client = client_of(name_of(runs), cfg.runs_dir, cfg.target)
    is_new = client.submit(runs)
    _say(f"submitted {client.place}" if is_new else f"attached to {client.place}, which was submitted before")
    return _followed(client, cfg.target) if cfg.target.watch else 0


def show_status(name: str, runs_dir: str, target: TargetConfig) -> int:
    """Prints how the job of a run stands."""
    client = client_of(name, runs_dir, target)
    status = client.status()
    _say(f"{client.place}: {status}")
    return status.state.value


def follow_logs(name: str, runs_dir: str, target: TargetConfig) -> int:
    """Prints the log of the job of a run, until it has ended."""
    return _followed(client_of(name, runs_dir, target), target)


def stop_job(name: str, runs_dir: str, target: TargetConfig) -> int:
    """Ends the job of a run, if there is one."""
    client = client_of(name, runs_dir, target)
    status = client.status()
    client.stop()
    _say(f"{client.place}: was {status}" + ("" if status.state is JobState.MISSING else "; stopped, its name is free"))
    return 0


def client_of(name: str, runs_dir: str, target: TargetConfig) -> JobClient:
    """The client of the job of one run; what it takes is imported here, since each target takes something else.

    Raises:
        ConfigError: the run has no name, or one that no job can have.
    """
    name = job_name(name)
    if target.kind is TargetKind.RAY:
        from sdft_ray.targets.ray_cluster import RayClusterJob

        return RayClusterJob(name, target)
    if target.kind is TargetKind.SLURM:
        from sdft_ray.targets.slurm.job import SlurmJob

        return SlurmJob(name, runs_dir, target.slurm.grace_s)
    if target.kind is TargetKind.SSH:
        from sdft_ray.targets.ssh.job import SshJob

        return SshJob(name, runs_dir, target.ssh)
    from sdft_ray.targets.kuberay.job import KubeRayJob

    return KubeRayJob(name, target)


def _followed(client: JobClient, target: TargetConfig) -> int:
    follower = Follower(client, _write, lambda words: _say(f"[{client.place}: {words}]"), Pace(target.patience_s))
    try:
        status = asyncio.run(follower.follow())
    except KeyboardInterrupt:
        if not wants_to_stop(_asked_on_terminal):
            _say(f"detached from {client.place}, which goes on; mode=logs follows it again")
            return JobState.RUNNING.value
        client.stop()
        _say(f"stopped {client.place}")
        return JobState.STOPPED.value
    _say(f"{client.place}: {status}")
    if target.kind is TargetKind.RAY and status.state is JobState.FAILED:
        _say(_advice(target, follower.end_of_log))
    _say(_about_name(status))
    return status.state.value


def wants_to_stop(ask: Callable[[], str]) -> bool:
    """True when the user has answered that the job is to be stopped; a second Ctrl-C, or nobody there, leaves it."""
    try:
        return ask().strip().lower().startswith("s")
    except (KeyboardInterrupt, EOFError):
        return False


def _asked_on_terminal() -> str:
    return input(f"\n{QUESTION}") if sys.stdin.isatty() else ""


def _advice(target: TargetConfig, end_of_log: str) -> str:
    if not LACKS_PACKAGES.search(end_of_log):
        return ""
    return (
        f"error: {target.python or 'python'!r} on the head node has no such package; set target.python to the "
        "interpreter of the environment that has them on every node, or start Ray in that environment, activated"
    )


def _about_name(status: JobStatus) -> str:
    if status.state in (JobState.SUCCEEDED, JobState.MISSING):
        return ""
    return "mode=stop frees its name; mode=submit then goes on from the newest checkpoint"


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _say(words: str) -> None:
    if words:
        print(words, flush=True)
