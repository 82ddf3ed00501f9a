"""target=slurm: a batch job from its submission to its end. Its folder is on a disk that all nodes share."""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from sdft_ray.errors import ClusterError, ConfigError
from sdft_ray.targets.elsewhere import for_elsewhere
from sdft_ray.targets.identity import RUN_FILE, TARGET_FILE, check_same, fingerprint, job_files
from sdft_ray.targets.jobs import JobState, JobStatus, job_folder
from sdft_ray.targets.run_file import Run
from sdft_ray.targets.slurm import commands
from sdft_ray.targets.slurm.script import (
    CODE_FILE,
    ID_FILE,
    LOG_FILE,
    SCRIPT_FILE,
    STOPPING_FILE,
    TOKEN_FILE,
    batch_script,
)

ENDED = {
    "COMPLETED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "OUT_OF_MEMORY": JobState.FAILED,
    "CANCELLED": JobState.STOPPED,
    "TIMEOUT": JobState.OUT_OF_TIME,
    "DEADLINE": JobState.OUT_OF_TIME,
    "NODE_FAIL": JobState.LOST,
    "BOOT_FAIL": JobState.LOST,
    "PREEMPTED": JobState.LOST,
    "REVOKED": JobState.LOST,
}
RUNS = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED")
READ_S = 1.0  # between two looks at the log
ASK_S = 10.0  # between two questions whether a silent job has ended
CANCELLED_S = 120.0  # a node kills what has not ended 30 s behind Slurm's own SIGTERM, where a site sets nothing else
REMEDY = "choose another name, or end that job with mode=stop"


class SlurmJob:
    """The batch job of one name."""

    def __init__(self, name: str, runs_dir: str, grace_s: float):
        """Asks nothing yet.

        Args:
            name: of the job, as `jobs.job_name` writes it.
            runs_dir: the folder of all runs, in which the job's own folder is.
            grace_s: seconds that a driver has for its checkpoint before it is stopped.
        """
        self._name = name
        self._folder = job_folder(runs_dir, name)
        self._grace_s = grace_s

    @property
    def place(self) -> str:
        """See `JobClient`."""
        return f"Slurm job {self._id or '(none)'} of {self._folder}"

    def submit(self, runs: Sequence[Run]) -> bool:
        """See `JobClient`."""
        own = [
            [
                (stage, for_elsewhere(cfg, str(Path(cfg.runs_dir).absolute()), "", sees=lambda path: True))
                for stage, cfg in run
            ]
            for run in runs
        ]
        files = job_files(own)
        if self._folder.is_dir():
            check_same(self._name, files, self._files(), REMEDY)
            if self._id:
                return False
        else:
            _, cfg = own[0][0]
            self._make_folder({**files, SCRIPT_FILE: batch_script(cfg, self._name), TOKEN_FILE: secrets.token_hex(32)})
        # A submitter that was killed behind sbatch has left a job whose id nobody has written.
        job = commands.find(self._name, fingerprint(files))
        self._write_id(job or commands.sbatch(self._folder / SCRIPT_FILE, fingerprint(files)))
        return not job

    def status(self) -> JobStatus:
        """See `JobClient`."""
        if not (job := self._id):
            return JobStatus(state=JobState.MISSING, words=f"{self._folder} has no job")
        word, reason = commands.state(job)
        code = self._code()
        if not word:
            word = commands.recorded_state(job) or ("" if code is None else "COMPLETED" if code == 0 else "FAILED")
        words = "; ".join(
            filter(None, [f"Slurm says {word or 'nothing'}", reason, "" if code is None else f"exit code {code}"])
        )
        attempt = job if (self._folder / LOG_FILE).exists() else ""
        state = JobState.LOST if not word else ENDED.get(word, JobState.RUNNING if word in RUNS else JobState.WAITING)
        if state.has_ended and state is not JobState.SUCCEEDED and (self._folder / STOPPING_FILE).exists():
            state = JobState.STOPPED
        return JobStatus(state=state, words=words, attempt=attempt)

    async def log(self, attempt: str) -> AsyncGenerator[str, None]:
        """See `JobClient`. A job that was begun anew goes on in the same file."""
        asked = -ASK_S
        with (self._folder / LOG_FILE).open(encoding="utf-8", errors="replace") as file:
            while True:
                if text := file.read():
                    yield text
                elif time.monotonic() - asked > ASK_S:
                    if self.status().state.has_ended:
                        yield file.read()
                        return
                    asked = time.monotonic()
                else:
                    await asyncio.sleep(READ_S)

    def stop(self) -> None:
        """See `JobClient`. The driver writes a checkpoint first; the job's folder stays beside, named by its id."""
        if not self._folder.is_dir():
            return
        if not (job := self._id or commands.find(self._name, fingerprint(self._files()))):
            # What sbatch has not taken has its name all the same.
            self._folder.rename(self._folder.with_name(f"{self._name}-not-submitted-{secrets.token_hex(4)}"))
            return
        self._write_id(job)
        (self._folder / STOPPING_FILE).touch()  # what its script would take for a preemption is none
        status = self.status()
        if status.state is JobState.RUNNING:
            commands.scancel(job, signal="TERM")
            status = self._status_within(self._grace_s)
        if not status.state.has_ended:
            commands.scancel(job)
            status = self._status_within(CANCELLED_S)
        if not status.state.has_ended:
            raise ClusterError(f"{self.place} was cancelled {CANCELLED_S:.0f} s ago and has not ended: {status}.")
        self._folder.rename(self._folder.with_name(f"{self._name}-{job}"))

    def _status_within(self, seconds: float) -> JobStatus:
        """The status as soon as the job has ended, or behind these seconds."""
        deadline = time.monotonic() + seconds
        while not (status := self.status()).state.has_ended and time.monotonic() < deadline:
            time.sleep(READ_S)
        return status

    @property
    def _id(self) -> str:
        path = self._folder / ID_FILE
        return path.read_text().strip() if path.is_file() else ""

    def _code(self) -> int | None:
        path = self._folder / CODE_FILE
        return int(path.read_text()) if path.is_file() and path.read_text().strip() else None

    def _files(self) -> dict[str, str]:
        """Those by which the job that is there is told from others."""
        return {name: (self._folder / name).read_text() for name in (RUN_FILE, TARGET_FILE)}

    def _make_folder(self, files: dict[str, str]) -> None:
        """All files or none: a folder that is there belongs to a job.

        Raises:
            ConfigError: runs_dir cannot be written.
        """
        scratch = self._folder.with_name(f".{self._name}.{os.getpid()}")
        try:
            scratch.mkdir(parents=True)
        except OSError as error:
            problem = f"cannot be written ({error.strerror})"
            remedy = "choose a folder that you may write to, on a disk that all nodes share"
            raise ConfigError("runs_dir", self._folder.parents[1], problem, remedy) from error
        for name, text in files.items():
            path = scratch / name
            path.touch(mode=0o600 if name == TOKEN_FILE else 0o644)
            path.write_text(text)
        scratch.rename(self._folder)

    def _write_id(self, job: str) -> None:
        scratch = self._folder / f"{ID_FILE}.new"
        scratch.write_text(job)
        scratch.replace(self._folder / ID_FILE)
