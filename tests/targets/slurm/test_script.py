"""What sbatch is handed."""

import subprocess
from pathlib import Path

import pytest

from sdft_ray.errors import ConfigError
from sdft_ray.launch import CONF
from sdft_ray.targets.slurm.script import batch_script
from tests.targets.slurm.examples import EXAMPLES, FOLDER, text
from tests.test_conf import compose_with

CLUSTERS = sorted(path.stem for path in (CONF / "cluster").glob("*.yaml"))


def script(*overrides: str) -> str:
    return batch_script(compose_with("target=slurm", "runs_dir=/shared/runs", *overrides), "billing")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_its_command_renders(name: str) -> None:
    assert (FOLDER / f"{name}.sh").read_text() == text(name), "run python -m tests.targets.slurm.examples"


@pytest.mark.parametrize("name", CLUSTERS)
def test_nodes_and_gpus_are_those_of_the_cluster_file_and_bash_can_read_the_script(name: str) -> None:
    written = script(f"+cluster={name}")
    cluster = compose_with(f"+cluster={name}").cluster
    assert f"#SBATCH --nodes={cluster.num_nodes}\n" in written
    assert (f"#SBATCH --gpus-per-node={cluster.gpus_per_node}\n" in written) == (cluster.num_gpus > 0)
    checked = subprocess.run(["bash", "-n"], input=written, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_the_signal_reaches_the_driver_alone_and_the_job_is_queued_again() -> None:
    written = script("+cluster=8xA100", "target.slurm.grace_s=300")
    assert "#SBATCH --signal=B:TERM@300\n" in written and "#SBATCH --requeue\n" in written
    assert "scontrol requeue" in written
    once = script("+cluster=8xA100", "target.slurm.requeue=false")
    assert "#SBATCH --no-requeue\n" in once and "scontrol requeue" not in once


def test_a_path_with_a_space_stays_one_word() -> None:
    written = script("+cluster=8xA100", "runs_dir='/shared/my runs'", "target.python='/my env/python'")
    assert "folder='/shared/my runs/.jobs/billing'\n" in written and "python='/my env/python'\n" in written


def test_every_command_of_the_job_runs_in_the_image() -> None:
    written = script("+cluster=2x8xH100", "target.slurm.apptainer=/shared/job.sif")
    assert "image=(apptainer exec --nv /shared/job.sif)" in written
    commands = [line for line in written.splitlines() if '"$python" -m' in line]
    assert len(commands) == 4 and all('"${image[@]}"' in line for line in commands)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("target.slurm.options=[exclusive]", "write it as --NAME=VALUE"),
        ("target.slurm.gpu_option=gpus", "choose gpus-per-node or gres"),
        ("target.slurm.port=80", "target.slurm.port"),
        ("target.slurm.port=65000", "is not the first of 1000 ports"),
        ("target.slurm.partition='a b'", "target.slurm.partition='a b'"),
        ("target.slurm.account='a;b'", "is no name of Slurm"),
        ("target.slurm.time_limit=forever", "write HH:MM:SS or D-HH:MM:SS"),
        ("target.slurm.cpus_per_node=1", "workers of 8xA100 need on a node"),
    ],
)
def test_what_sbatch_would_refuse_is_refused_with_its_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        script("+cluster=8xA100", override)


@pytest.mark.parametrize("time", ["90", "90:00", "12:00:00", "2-12", "2-12:30", "2-12:30:00", "UNLIMITED"])
def test_every_time_that_sbatch_takes_is_taken(time: str) -> None:
    assert f"#SBATCH --time={time}\n" in script("+cluster=8xA100", f"target.slurm.time_limit='{time}'")


def test_examples_are_all_that_is_there() -> None:
    assert {path.name for path in Path(FOLDER).iterdir()} == {f"{name}.sh" for name in EXAMPLES}
