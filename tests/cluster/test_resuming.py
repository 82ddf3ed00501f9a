"""A checkpoint from which a run cannot go on is refused on the driver, before any worker is started."""

import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from sdft_ray.cluster import resuming
from sdft_ray.cluster.job import Job
from sdft_ray.cluster.resuming import what_differs
from sdft_ray.errors import CheckpointError, ConfigError
from sdft_ray.launch import CONF, typed_config
from sdft_ray.learner.checkpoint import complete, layout, partial_folder
from sdft_ray.tracking.summary import package_versions
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
            **job._saving.facts,
        }
        complete(partial_folder(folder.checkpoints, 2), state)
    return tmp_path / "runs"


OTHERS = {
    "seed": (["seed=1"], "data state has seed=0, this run has 1.*give the run the data source, seed,"),
    "batch size": (["batch_size=2"], "data state has batch_size=4, this run has 2"),
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


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1}, "its files hold other weights"),
        ({"layers": 3}, "num_hidden_layers is 3 and was 2"),
        ({"hidden": 128}, "hidden_size is 128 and was 64"),
    ],
    ids=["seed", "layers", "hidden"],
)
def test_another_model_is_refused_also_where_its_shapes_are_the_same(
    model: str, runs: Path, tmp_path: Path, changes: dict[str, int], difference: str
) -> None:
    other = make_tiny_model(tmp_path / "other", **changes)
    with pytest.raises(CheckpointError, match=rf"began with another model than this model\.path: .*{difference}"):
        start(other, runs, "resume=auto")


def test_the_same_model_in_another_place_goes_on(model: str, runs: Path, tmp_path: Path) -> None:
    moved = shutil.move(model, tmp_path / "moved")
    job = start(str(moved), runs, "resume=auto")
    with job.folder:
        assert job.inputs.examples.position == 8


def test_another_layout_and_another_version_are_resumed_and_told(model: str, runs: Path) -> None:
    job = start(model, runs, "resume=auto", "learner.zero_stage=3", "cluster.learner.num_workers=2")
    with job.folder:
        assert job.inputs.examples.position == 8
        told = what_differs(job.folder, job._cfg, job._settings)
    (cut,) = (line for line in told if line.startswith("weights, moments and average cut for"))
    assert "'num_ranks': 2, 'zero_stage': 3" in cut and "(saved with {'num_ranks': 1, 'zero_stage': 2" in cut
    assert not any(line.startswith("sdft-ray ") for line in told), "the version is the same"


def test_another_version_of_the_code_is_told(model: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "package_versions", lambda: {"sdft-ray": "9.0"})
    job = start(model, runs, "resume=auto")
    with job.folder:
        told = what_differs(job.folder, job._cfg, job._settings)
    assert f"sdft-ray 9.0 (was {package_versions()['sdft-ray']})" in told


BEST = {
    "no metric": (["keep_best=evaluation/accuracy_of"], "keep_best=evaluation/accuracy_of: is no metric"),
    "never measured": (["keep_best=evaluation/prior_accuracy"], "evaluation.every=0: evaluation/prior_accuracy is not"),
    "at other steps": (
        ["keep_best=evaluation/prior_accuracy", "evaluation.every=4", "checkpoint_every=6"],
        r"evaluation.every=4: .* is not measured at every checkpoint \(checkpoint_every=6\)",
    ),
    "at the ends": (["keep_best=harness/mean_accuracy"], "is measured before and after training only"),
}


@pytest.mark.parametrize("what", BEST)
def test_a_best_that_no_checkpoint_could_be_is_refused(model: str, tmp_path: Path, what: str) -> None:
    overrides, message = BEST[what]
    with pytest.raises(ConfigError, match=message):
        start(model, tmp_path / "runs", *overrides)
    assert not (tmp_path / "runs" / "run").exists()


def test_a_damaged_config_is_refused_before_it_is_written_over(model: str, runs: Path) -> None:
    path = runs / "run" / "config.yaml"
    path.write_text("seed: [0")
    with pytest.raises(CheckpointError, match=r"config.yaml is damaged .*move it out of the folder and start again"):
        start(model, runs, "resume=auto")
    assert path.read_text() == "seed: [0"
    path.unlink()
    start(model, runs, "resume=auto").folder.__exit__(None, None, None)
