"""What travels to a Ray cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sdft_ray.errors import ConfigError
from sdft_ray.launch import compose_config
from sdft_ray.targets import ray_cluster
from sdft_ray.targets.identity import RUN_FILE, check_same, fingerprint
from sdft_ray.targets.ray_cluster import lay_out, ray_files
from tests.test_conf import compose_with

GIVEN = ("+cluster=8xA100", "target=ray", "mode=submit", "name=billing", "runs_dir=/shared/runs")


def test_the_folder_that_travels_holds_all_that_the_command_reads(tmp_path: Path) -> None:
    lay_out(tmp_path, ray_files([[("", compose_with(*GIVEN))]]))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = "import sdft_ray.launch; from sdft_ray.targets.run_file import read_runs; from pathlib import Path; "
    where += f"print(sdft_ray.__file__, sdft_ray.launch.CONF, read_runs(Path({RUN_FILE!r}))[0][0][1].name)"
    done = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [f"{tmp_path}/sdft_ray/__init__.py", f"{tmp_path}/sdft_ray/conf", "billing"], done


def test_a_job_of_many_seeds_and_stages_fits_into_the_metadata_of_a_job() -> None:
    cfg = compose_with(*GIVEN)
    runs = [[(str(stage), cfg) for stage in range(5)] for _ in range(20)]
    packed = ray_cluster._packed(ray_files(runs))
    assert len(packed) < 128 * 1024
    assert ray_cluster._unpacked(packed) == ray_files(runs)


def test_the_driver_goes_on_where_an_earlier_job_ended() -> None:
    ((stage,),) = yaml.safe_load(ray_files([[("", compose_with(*GIVEN))]])[RUN_FILE])
    assert (stage["settings"]["resume"], stage["settings"]["mode"]) == ("auto", "train")


def test_a_run_folder_that_would_vanish_with_the_job_is_refused() -> None:
    with pytest.raises(ConfigError, match="runs_dir=runs: would lie in the job's own folder"):
        ray_files([[("", compose_with("+cluster=8xA100", "target=ray", "name=billing"))]])


def test_settings_of_several_runs_that_differ_are_named_with_their_run() -> None:
    runs = [[("", compose_config(*GIVEN, f"seed={seed}"))] for seed in (0, 1)]
    others = [[("", compose_config(*GIVEN, f"seed={seed}"))] for seed in (0, 2)]
    mine, theirs = ray_files(runs), ray_files(others)
    assert fingerprint(mine) != fingerprint(theirs) and fingerprint(mine) == fingerprint(ray_files(runs))
    with pytest.raises(ConfigError, match=r"name=billing: is taken.*: run 1 seed=1 \(there 2\); remedy"):
        check_same("billing", mine, theirs, "remedy")
