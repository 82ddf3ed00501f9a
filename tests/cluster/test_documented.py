"""The training command on data of one's own runs as it stands, on a tiny model in place of the one it names.

It is the same command in README and in the quick start.
"""

import subprocess
import sys
from pathlib import Path

import ray

from tests.cluster.command import ROOT, users_environment
from tests.documented import commands, overrides_of, write_named_files

SMALL = ["num_steps=1", "rollout.max_new_tokens=12", "rollout.kv_cache_gib=0.125", "evaluation.max_new_tokens=8"]


def test_the_documented_command_on_data_of_ones_own_runs(cluster: None, folder: str, tmp_path: Path) -> None:
    pages = (ROOT / "README.md", ROOT / "docs" / "quickstart.md")
    given = [overrides_of(words) for page in pages for words in commands(page)]
    trained = [of_one for of_one in given if of_one and "name=billing" in of_one]
    overrides, again = [of_one for of_one in trained if not any(one.startswith("mode=") for one in of_one)]
    assert overrides == again
    write_named_files(overrides, tmp_path)
    environment = users_environment(RAY_ADDRESS=ray.get_runtime_context().gcs_address, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "sdft_ray.launch", *overrides, f"model.path={folder}", *SMALL]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "billing" / "model" / "config.json").exists()
    assert "mine accuracy" in done.stdout
