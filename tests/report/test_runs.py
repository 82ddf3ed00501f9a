"""Run folders: what is absent is tolerated, what is broken is named with its file and line."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdft_ray.errors import ConfigError, DataError
from sdft_ray.report.faults import faults
from sdft_ray.report.runs import read_runs
from tests.report.folders import sample_line, settings_of, step_line, summary_of, write_run


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    lines = [step_line(0, evaluation__taught_accuracy=0.25), step_line(1, learner__loss=2.0)]
    samples = [sample_line(1, ["a", "b"], [0.5, 1.5])]
    write_run(tmp_path / "run", settings_of("sdft", 3), lines, samples=samples, summary=summary_of(1))
    (run,) = read_runs([str(tmp_path / "run")])
    assert (run.name, run.seed, run.num_steps, run.is_finished) == ("run", 3, 1, True)
    assert run.settings["method.name"] == "sdft"
    assert run.values("learner/loss") == {1: 2.0}
    assert run.samples[0].divergence == (0.5, 1.5)


def test_a_run_that_has_only_begun_is_no_error(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", settings_of("sdft", 0), [])
    (folder / "metrics.jsonl").unlink()
    (folder / "samples.jsonl").unlink()
    (run,) = read_runs([str(folder)])
    assert (run.lines, run.samples, run.is_finished, run.num_steps, run.stages) == ((), (), False, 0, ())


def test_a_line_that_is_still_being_written_is_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", settings_of("sdft", 0), [step_line(1, learner__loss=2.0)])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "learner/lo')
    (run,) = read_runs([str(folder)])
    assert run.num_steps == 1


def test_values_that_were_not_finite_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", settings_of("sdft", 0), [])
    (folder / "metrics.jsonl").write_text('{"step": 1, "learner/loss": null, "learner/grad_norm": NaN}\n')
    (run,) = read_runs([str(folder)])
    assert run.lines[0].metrics == {}


def test_of_a_step_evaluated_twice_the_later_value_counts(tmp_path: Path) -> None:
    lines = [step_line(4, evaluation__taught_accuracy=value) for value in (0.5, 0.75)]
    write_run(tmp_path / "run", settings_of("sdft", 0), lines)
    assert read_runs([str(tmp_path / "run")])[0].values("evaluation/taught_accuracy") == {4: 0.75}


BROKEN = [
    ("metrics.jsonl", '{"step": 1}\nnonsense\n', r"metrics\.jsonl, line 2: is not JSON"),
    ("metrics.jsonl", '{"step": 1}\n' + "[" * 100_000 + "\n", r"metrics\.jsonl, line 2: is not JSON"),
    ("metrics.jsonl", '{"time_s": 1}\n', r"metrics\.jsonl, line 1: is no JSON object with a whole number `step`"),
    ("metrics.jsonl", '{"step": 1, "learner/loss": "low"}\n', r"line 1: learner/loss is 'low', not a number"),
    ("samples.jsonl", '{"step": 1, "tokens": ["a"], "divergence": [1, 2]}\n', "has 1 tokens but 2 divergences"),
    ("config.yaml", "a: 1\nb: [\n", r"config\.yaml, line 3: is not YAML"),
    ("config.yaml", "", r"config\.yaml, line 1: holds no settings"),
    ("summary.json", '{\n"a": }', r"summary\.json, line 2: is not JSON"),
    ("summary.json", "[]", r"summary\.json, line 1: is no JSON object"),
]


@pytest.mark.parametrize(("file", "content", "message"), BROKEN)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, file: str, content: str, message: str) -> None:
    folder = write_run(tmp_path / "run", settings_of("sdft", 0), [])
    (folder / file).write_text(content)
    with pytest.raises(DataError, match=message):
        read_runs([str(folder)])


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b"[" * 100_000 + b"\n"], ids=["no text", "deep"])
@pytest.mark.parametrize("file", ["metrics.jsonl", "samples.jsonl"])
def test_a_damaged_line_is_named_whatever_its_bytes_are(tmp_path: Path, file: str, line: bytes) -> None:
    folder = write_run(tmp_path / "run", settings_of("sdft", 0), [])
    (folder / file).write_bytes(b'{"step": 1}\n' + line)
    with pytest.raises(DataError, match=rf"{file}, line 2: is not JSON .*; mend it, or leave this run out of runs\.$"):
        read_runs([str(folder)])


def test_a_damaged_line_of_faults_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", settings_of("sdft", 0), [])
    (folder / "faults.jsonl").write_text("nonsense\n")
    study: Any = SimpleNamespace(runs=read_runs([str(folder)]))
    with pytest.raises(DataError, match=r"faults\.jsonl, line 1: is not JSON"):
        faults(study)


def test_a_pattern_takes_run_folders_only_and_each_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, settings_of("sdft", 0), [])
    (tmp_path / "bench").mkdir()
    runs = read_runs([str(tmp_path / "*"), str(tmp_path / "b")])
    assert [run.name for run in runs] == ["a", "b"]


def test_runs_of_one_name_are_told_apart_by_their_parents(tmp_path: Path) -> None:
    for parent in ("first", "second"):
        write_run(tmp_path / parent / "run", settings_of("sdft", 0), [])
    assert [run.name for run in read_runs([str(tmp_path / "*" / "run")])] == ["first/run", "second/run"]


@pytest.mark.parametrize("entries", [[], ["/nowhere"]], ids=["none", "no folder"])
def test_what_is_no_run_folder_is_refused(entries: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^runs="):
        read_runs(entries)
