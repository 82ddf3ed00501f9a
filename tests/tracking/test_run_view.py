"""What mode=top reads of a run folder."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.errors import DataError
from sdft_ray.tracking import run_view
from sdft_ray.tracking.run_status import read_status, write_status
from sdft_ray.tracking.run_view import packed, read_view, unpacked
from tests.watch.observed import make_status, make_view

LOG = """\
2026-11-28 17:40:32,753 sdft_ray.tracking.console INFO starting 1 rollout worker ... 93 s
2026-11-28 17:41:11,616 sdft_ray.tracking.console INFO evaluating after step 0 ... 17 of 146
2026-11-28 17:41:12,616 vllm INFO what no person is told
2026-11-28 17:41:55,587 sdft_ray.tracking.console INFO step 1/12  loss 0.2555
2026-11-28 17:42:00,000 sdft_ray.tracking.console INFO lost           teacher worker 0 was lost: killed
2026-11-28 17:42:10,000 sdft_ray.tracking.console INFO starting 1 teacher worker ...
"""


def write_metrics(folder: Path, *lines: dict[str, Any]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def step(number: int) -> dict[str, Any]:
    return {"step": number, "time_s": 1.0, "loop/step_s": 1.23456789, "learner/loss": None, "rollout/copied_share": 0.5}


def test_a_folder_in_which_nothing_has_happened_is_a_view_of_nothing(tmp_path: Path) -> None:
    view = read_view(tmp_path)
    assert (view.name, view.status, view.steps, view.evaluation, view.events) == (tmp_path.name, None, (), {}, ())


def test_what_a_person_was_told_is_an_event_and_steps_are_none(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "driver.log").write_text(LOG)
    (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-000002.partial").mkdir()
    view = read_view(tmp_path)
    assert [event.text for event in view.events] == [
        "starting 1 rollout worker ... 93 s",
        "lost           teacher worker 0 was lost: killed",
        "checkpoint     step-000001",
    ]
    assert (view.told, view.error) == ("starting 1 teacher worker ...", "")
    with (tmp_path / "logs" / "driver.log").open("a") as log:
        log.write("2026-11-28 17:43:00 error: no room is left\nIts log: somewhere\n")
    assert read_view(tmp_path).error == "error: no room is left"


def test_the_first_evaluation_is_found_however_long_the_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_view, "END_BYTES", 4096)
    evaluations = [{"step": number, "evaluation/taught_accuracy": number / 500} for number in (0, 500)]
    write_metrics(tmp_path, evaluations[0], *map(step, range(1, 501)), evaluations[1])
    view = read_view(tmp_path)
    assert (view.first_evaluation, view.evaluation) == tuple(evaluations)
    assert view.steps[-1] == {"step": 500, "loop/step_s": 1.23457, "learner/loss": None}
    assert 10 < len(view.steps) <= run_view.NUM_STEPS


def test_a_line_that_is_being_written_is_not_read_and_a_broken_one_is_named(tmp_path: Path) -> None:
    write_metrics(tmp_path, step(1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "loop/st')
    assert len(read_view(tmp_path).steps) == 1
    (tmp_path / "metrics.jsonl").write_text("no JSON\n")
    with pytest.raises(DataError, match="metrics.jsonl.*'no JSON'.*mend or move the file"):
        read_view(tmp_path)


def test_status_and_view_come_back_as_they_went(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    write_status(tmp_path, make_status())
    assert read_status(tmp_path) == make_status()
    assert unpacked(packed(make_view())) == make_view()
    assert unpacked(packed(make_view(status=None))).status is None
    assert asdict(make_status())["workers"][0]["role"] == "rollout"


def test_a_run_belongs_to_the_stage_of_its_next_step() -> None:
    stages = [make_status(step=step).stage() for step in (0, 19, 20, 40)]
    assert stages == [(1, "facts"), (1, "facts"), (2, "tools"), (2, "tools")]
