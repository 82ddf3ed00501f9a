"""A batch job that Slurm has not taken: what is said of it, and that its name is free again."""

from pathlib import Path

import pytest

from sdft_ray.errors import ClusterError, ConfigError
from sdft_ray.targets.jobs import JobState
from sdft_ray.targets.slurm.job import SlurmJob
from tests.test_conf import compose_with

NOWHERE = """squeue: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
squeue: error: fetch_config: DNS SRV lookup failed
squeue: fatal: Could not establish a configuration source"""


def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, *, squeue: str, sbatch: str = "echo 7") -> None:
    """Puts these bodies of programs in the place of Slurm's."""
    for name, body in (("squeue", squeue), ("sbatch", sbatch)):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def submit(runs: Path, *overrides: str) -> bool:
    cfg = compose_with("+cluster=local", "target=slurm", "name=billing", f"runs_dir={runs}", *overrides)
    return job(runs).submit([[("", cfg)]])


def job(runs: Path) -> SlurmJob:
    return SlurmJob("billing", str(runs), 1)


def test_a_machine_without_a_configuration_of_slurm_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm(tmp_path, monkeypatch, squeue=f"echo '{NOWHERE}' >&2; exit 1")
    with pytest.raises(ClusterError, match="squeue finds no slurm.conf here; submit from a machine that has one"):
        submit(tmp_path / "runs")


def test_a_job_that_sbatch_has_refused_frees_its_name_and_keeps_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    slurm(tmp_path, monkeypatch, squeue="exit 0", sbatch="echo 'invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(ClusterError, match="invalid partition"):
        submit(runs, "target.slurm.partition=gpu")
    slurm(tmp_path, monkeypatch, squeue="exit 0")
    with pytest.raises(ConfigError, match="end that job with mode=stop"):
        submit(runs, "batch_size=8")
    job(runs).stop()
    assert job(runs).status().state is JobState.MISSING
    assert submit(runs, "batch_size=8") is True
    (kept,) = (runs / ".jobs").glob("billing-not-submitted-*")
    assert (kept / "job.sh").is_file()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm(tmp_path, monkeypatch, squeue="exit 0")
    (tmp_path / "taken").touch()
    with pytest.raises(ConfigError, match=r"^runs_dir=.*/taken: cannot be written \(Not a directory\)"):
        submit(tmp_path / "taken")
