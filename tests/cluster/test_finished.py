"""A finished run is kept, and goes on only where more steps are asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

from sdft_ray.cluster.finished import FinishedRun, finished_run
from sdft_ray.config import RunConfig
from sdft_ray.config.saved import plain_settings, write_settings
from sdft_ray.launch import compose_config
from sdft_ray.tracking.earlier import move_to_earlier
from sdft_ray.tracking.summary import SUMMARY_FILE, write_summary

TWO_EPOCHS = ("num_steps=0", "num_epochs=2")


def settings_with(*overrides: str) -> RunConfig:
    return compose_config("+cluster=local", "name=one", "resume=auto", *overrides)


def finish(runs: Path, num_steps: int, *overrides: str) -> Path:
    folder = runs / "one"
    folder.mkdir()
    write_settings(folder, plain_settings(settings_with(f"runs_dir={runs}", *overrides)))
    write_summary(folder, {"num_steps": num_steps})
    return folder


def found(runs: Path, *overrides: str) -> FinishedRun | None:
    return finished_run(settings_with(f"runs_dir={runs}", *overrides))


def test_the_same_command_again_finds_the_run_finished(tmp_path: Path) -> None:
    folder = finish(tmp_path, 12, *TWO_EPOCHS)
    assert found(tmp_path, *TWO_EPOCHS) == FinishedRun(folder, ())


@pytest.mark.parametrize(("num_steps", "is_finished"), [(8, True), (12, True), (13, False)])
def test_only_more_steps_than_were_taken_make_it_go_on(tmp_path: Path, num_steps: int, is_finished: bool) -> None:
    finish(tmp_path, 12, "num_steps=12")
    assert (found(tmp_path, f"num_steps={num_steps}") is not None) == is_finished


@pytest.mark.parametrize(
    "change", ["num_epochs=3", "batch_size=4", "data.source=other.jsonl", "data.num_examples=9", "stages=[facts,tools]"]
)
def test_where_the_steps_have_to_be_counted_anew_the_run_goes_on(tmp_path: Path, change: str) -> None:
    finish(tmp_path, 12, *TWO_EPOCHS)
    assert found(tmp_path, *TWO_EPOCHS, change) is None


def test_a_stage_with_more_steps_makes_a_staged_run_go_on(tmp_path: Path) -> None:
    finish(tmp_path, 12, "stages=['facts num_steps=4','tools num_steps=8']")
    assert found(tmp_path, "stages=['facts num_steps=4','tools num_steps=8']") is not None
    assert found(tmp_path, "stages=['facts num_steps=4','tools num_steps=9']") is None


def test_other_settings_do_not_train_it_again_but_are_named(tmp_path: Path) -> None:
    folder = finish(tmp_path, 12, *TWO_EPOCHS, "learner.learning_rate=1e-5", "resume=never")
    kept = found(tmp_path, *TWO_EPOCHS, "learner.learning_rate=5e-5")
    assert str(kept) == f"{folder} is finished; nothing to do\nit was trained with learner.learning_rate=1e-05"


def test_a_run_without_a_summary_is_not_finished(tmp_path: Path) -> None:
    folder = finish(tmp_path, 12, *TWO_EPOCHS)
    move_to_earlier(folder / SUMMARY_FILE)
    assert found(tmp_path, *TWO_EPOCHS) is None
    move_to_earlier(folder / SUMMARY_FILE)
    assert found(tmp_path / "elsewhere", *TWO_EPOCHS) is None


@pytest.mark.parametrize("setting", ["resume=never", "mode=evaluate", "mode=check_teacher"])
def test_only_a_training_run_that_may_be_resumed_is_looked_for(tmp_path: Path, setting: str) -> None:
    finish(tmp_path, 12, *TWO_EPOCHS)
    assert found(tmp_path, *TWO_EPOCHS, setting) is None


def test_a_finished_run_is_found_without_ray_and_torch() -> None:
    program = "import sys, sdft_ray.cluster.finished; print([name for name in ('ray', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
