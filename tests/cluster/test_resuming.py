"""A checkpoint from which a run cannot go on is refused on the driver, before any worker is started."""

import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from sdft_ray.cluster.job import Job
from sdft_ray.errors import CheckpointError
from sdft_ray.launch import CONF, typed_config
from sdft_ray.learner.checkpoint import complete, layout, partial_folder
from sdft_ray.models.folder_check import fingerprint
from tests.cluster.command import SETTINGS
from tests.tiny import make_tiny_model


def start(model: str, runs: Path, *overrides: str) -> Job:
    """What the command does before it starts Ray."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = [*SETTINGS, f"model.path={model}", f"runs_dir={runs}", "name=run", "num_steps=4", *overrides]
        return Job([("", typed_config(compose("config", settings)))])


@pytest.fixture
def model(tmp_path: Path) -> str:
    return make_tiny_model(tmp_path / "model")


@pytest.fixture
def runs(model: str, tmp_path: Path) -> Path:
    """With a run that was stopped after its second step."""
    job = start(model, tmp_path / "runs")
    with job.folder as folder:
        folder.begin({"model": {"path": model}})
        state = {
            "weight_version": 2,
            "data": job.inputs.examples.state_at(8),
            "layout": layout(job._cfg.learner, 1),
            "model": fingerprint(model),
        }
        complete(partial_folder(folder.checkpoints, 2), state, keep=2)
    return tmp_path / "runs"


OTHERS = {
    "seed": (["seed=1"], "data state has seed=0, this run has 1.*give the run the data source, seed,"),
    "batch size": (["batch_size=2"], "data state has batch_size=4, this run has 2"),
    "ZeRO stage": (["learner.zero_stage=3"], "'zero_stage': 2.*this run has .*'zero_stage': 3.*learner.zero_stage"),
    "number of ranks": (["cluster.learner.num_workers=2"], "'num_ranks': 1.*this run has .*'num_ranks': 2"),
    "fewer steps": (["num_steps=1"], "saved after step 2, but the run ends at num_steps=1; raise num_steps"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_settings_that_the_checkpoint_contradicts_are_refused(model: str, runs: Path, what: str) -> None:
    overrides, message = OTHERS[what]
    before = sorted(path for path in runs.rglob("*"))
    with pytest.raises(CheckpointError, match=message):
        start(model, runs, "resume=auto", *overrides)
    assert sorted(path for path in runs.rglob("*")) == before
    start(model, runs, "resume=auto").folder.__exit__(None, None, None)  # the folder is free again


@pytest.mark.parametrize("changes", [{"seed": 1}, {"layers": 3}, {"hidden": 128}])
def test_another_model_is_refused_also_where_its_shapes_are_the_same(
    model: str, runs: Path, tmp_path: Path, changes: dict[str, int]
) -> None:
    other = make_tiny_model(tmp_path / "other", **changes)
    with pytest.raises(CheckpointError, match=r"step-000002: its run began with another model than this model\.path"):
        start(other, runs, "resume=auto")


def test_the_same_model_in_another_place_goes_on(model: str, runs: Path, tmp_path: Path) -> None:
    moved = shutil.move(model, tmp_path / "moved")
    job = start(str(moved), runs, "resume=auto")
    with job.folder:
        assert job.inputs.examples.position == 8
