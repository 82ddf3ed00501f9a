"""target=ray: a job of a Ray cluster that is there. The package travels along; what it imports does not."""

import base64
import gzip
import json
import shlex
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from sdft_ray.config import TargetConfig
from sdft_ray.errors import ClusterError, ConfigError
from sdft_ray.targets.elsewhere import for_elsewhere, is_absolute
from sdft_ray.targets.identity import RUN_FILE, Files, check_same, fingerprint, job_files
from sdft_ray.targets.jobs import JobState, JobStatus, Unreachable
from sdft_ray.targets.ray_jobs import RayJobs
from sdft_ray.targets.run_file import OPTION, Run

PACKAGE = Path(__file__).resolve().parents[1]
NAME, FILES = "sdft_name", "sdft_files"  # of a job's metadata: the run's name, and what `_packed` makes
GRACE_BESIDE_STEP_S = 60  # for the checkpoint behind the step
AGENT_TIMEOUT_S = 60.0  # a head that has just started has no agent for jobs yet
MONITOR_S = 5.0  # Ray's monitor of a job looks every second: of one that is deleted too soon it makes a failed one
REMEDY = "choose another name, or end that job with mode=stop"


class RayClusterJob:
    """The job of one name on a Ray cluster."""

    def __init__(self, name: str, target: TargetConfig):
        """Asks nothing yet.

        Args:
            name: of the job, as `jobs.job_name` writes it.
            target: where the dashboard is.
        """
        self._name = name
        self._target = target
        self._id = ""  # of the newest job of this name

    @property
    def place(self) -> str:
        """See `JobClient`."""
        return f"{self._id or self._name} at {self._target.address}"

    def submit(self, runs: Sequence[Run]) -> bool:
        """See `JobClient`."""
        files = ray_files(runs)
        self._id = f"{self._name}-{fingerprint(files)}"
        deadline = time.monotonic() + AGENT_TIMEOUT_S
        while True:
            try:
                return self._submit_once(files, grace_s=int(runs[0][0][1].faults.grace_s) + GRACE_BESIDE_STEP_S)
            except Unreachable:  # also: taken, and the answer was lost
                if time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def status(self) -> JobStatus:
        """See `JobClient`."""
        self._id = self._id or self._newest()
        if not self._id:
            words = f"{self._target.address} has no job with name={self._name}"
            return JobStatus(state=JobState.MISSING, words=words)
        return self._jobs.state_of(self._id)

    def log(self, attempt: str) -> AsyncGenerator[str, None]:
        """See `JobClient`."""
        return self._jobs.log_of(attempt)

    def stop(self) -> None:
        """See `JobClient`. Ray sends SIGTERM, upon which a run writes a checkpoint, and SIGKILL later."""
        state = self.status().state
        if state is JobState.MISSING:
            return
        if not state.has_ended:
            self._jobs.stop_job(self._id)
            while not self._jobs.state_of(self._id).state.has_ended:
                time.sleep(1)
            time.sleep(MONITOR_S)
        self._jobs.delete_job(self._id)

    @cached_property
    def _jobs(self) -> RayJobs:
        return RayJobs(self._target.address)

    def _submit_once(self, files: Files, grace_s: int) -> bool:
        for of_job in self._others():
            check_same(self._name, files, of_job, REMEDY)
        if self._jobs.state_of(self._id).state is not JobState.MISSING:
            return False
        python = shlex.quote(self._target.python or "python")
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            lay_out(folder, files)
            try:
                self._jobs.submit_job(
                    entrypoint=f"{python} -m sdft_ray.launch {OPTION}{RUN_FILE}",
                    submission_id=self._id,
                    # Between SIGTERM and SIGKILL of mode=stop Ray leaves 3 s, in which no checkpoint is written.
                    runtime_env={"working_dir": scratch, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(grace_s)}},
                    metadata={NAME: self._name, FILES: _packed(files)},
                )
            except RuntimeError as error:  # Ray's client has no other for what a server refuses
                if "already exists" in str(error):  # of another submitter, a moment ago
                    return False
                raise ClusterError(f"{self._target.address}: refuses the job ({error}).") from error
        return True

    def _others(self) -> list[Files]:
        """The files of every job of this name that has not ended."""
        return [
            _unpacked(job.metadata[FILES])
            for job in self._jobs.list_jobs()
            if (job.metadata or {}).get(NAME) == self._name and not job.status.is_terminal()
        ]

    def _newest(self) -> str:
        """The id of the newest job of this name, one that has not ended before all others; "" where there is none."""
        jobs = [job for job in self._jobs.list_jobs() if (job.metadata or {}).get(NAME) == self._name]
        newest = max(jobs, key=lambda job: (not job.status.is_terminal(), job.start_time or 0), default=None)
        return str(newest.submission_id) if newest else ""


def ray_files(runs: Sequence[Run]) -> dict[str, str]:
    """The files of a job for a Ray cluster.

    Raises:
        ConfigError: a setting has no meaning on other machines; with the key, the value and the remedy.
    """
    for _, cfg in (stage for run in runs for stage in run):
        if not PurePosixPath(cfg.runs_dir).is_absolute():
            remedy = "set it to a folder that all nodes see, such as /shared/runs"
            raise ConfigError("runs_dir", cfg.runs_dir, "would lie in the job's own folder, which Ray removes", remedy)
    remedy = "copy it to where all nodes see it, and name its whole path"
    own = [[(stage, for_elsewhere(cfg, cfg.runs_dir, remedy, sees=is_absolute)) for stage, cfg in run] for run in runs]
    return job_files(own)


def lay_out(folder: Path, files: Files) -> None:
    """Puts the package, its presets and the job's files into a folder, as a node will find them."""
    kept = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=kept)
    if not (PACKAGE / "conf").is_dir():  # in a clone the presets lie beside the package
        shutil.copytree(PACKAGE.parent / "conf", folder / PACKAGE.name / "conf", ignore=kept)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _packed(files: Files) -> str:
    """The files as Ray's metadata can hold them: a value becomes an environment variable, of 128 KiB at most."""
    return base64.b64encode(gzip.compress(json.dumps(dict(files)).encode(), mtime=0)).decode()


def _unpacked(text: str) -> dict[str, str]:
    files: dict[str, str] = json.loads(gzip.decompress(base64.b64decode(text)))
    return files
