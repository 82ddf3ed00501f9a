"""A file of runs says all that the command line said."""

from pathlib import Path

import pytest

from sdft_ray.config import Mode, TargetKind
from sdft_ray.errors import SdftError
from sdft_ray.launch.targeting import run_file
from sdft_ray.targets.run_file import read_runs, written_runs
from tests.test_conf import compose_with


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    cfg = compose_with("+cluster=8xA100", "name=a", "model.dtype=FLOAT32", "+data.filter.level=easy")
    path = tmp_path / "run.yaml"
    path.write_text(written_runs([[("first", cfg), ("second", cfg)], [("first", cfg)]], Mode.evaluate))
    runs = read_runs(path)
    assert [[stage for stage, _ in run] for run in runs] == [["first", "second"], ["first"]]
    assert runs[0][0][1].mode is Mode.evaluate
    cfg.mode = Mode.evaluate
    assert runs[0][0][1] == cfg


def test_a_run_of_a_file_runs_where_it_is_read(tmp_path: Path) -> None:
    cfg = compose_with(
        "+cluster=8xA100", "name=a", "target=kuberay", "target.image=x", "target.storage.claim=c", "mode=render"
    )
    path = tmp_path / "run.yaml"
    path.write_text(written_runs([[("", cfg)]], Mode.train))
    ((_, read),) = read_runs(path)[0]
    assert (read.mode, read.target.kind) == (Mode.train, TargetKind.HERE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no file of runs"),
        ("a: 1", "is no file of runs"),
        ("- - stage: ''", "is no file of runs"),
        ("- - {stage: '', settings: {nmae: x}}", "nmae"),
        ("- - {stage: '', settings: {batch_size: many}}", "batch_size"),
    ],
)
def test_a_broken_file_is_refused_in_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(SdftError, match=message):
        read_runs(path)
    with pytest.raises(SdftError, match="cannot be read"):
        read_runs(tmp_path / "none.yaml")


def test_settings_beside_a_file_of_runs_are_refused() -> None:
    assert run_file(["--run-file=/a"]) == Path("/a")
    assert run_file(["name=x"]) is None
    with pytest.raises(SdftError, match="num_steps=3 would change them"):
        run_file(["--run-file=/a", "num_steps=3"])
