"""Frames of mode=top, at the width of a small and of a large terminal."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from sdft_ray.watch.frame import MIN_EVENTS, Look, State, frame
from tests.watch.observed import NOW, make_look, make_status, make_step, make_view

WIDTHS = (80, 140)


def lines_of(look: Look, width: int = 80, height: int | None = None) -> list[str]:
    """As a file has them, without any colour."""
    console = Console(file=io.StringIO(), width=width)
    console.print(frame(look, width=width, height=height), soft_wrap=True)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def line_with(lines: list[str], begin: str) -> str:
    (found,) = [line for line in lines if line.startswith(begin)]
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_a_frame_says_where_the_run_is_who_works_and_how_it_goes(width: int) -> None:
    lines = lines_of(make_look(), width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert lines[0].split() == ["billing", "running", "12", "min", "3", "s"]
    assert line_with(lines, "step 25 of 40  stage tools (2 of 2)").endswith("62%  1 min 0 s left")
    assert "SmolLM2-135M-Instruct on 8xA100" in lines[1]
    rollout = line_with(lines, "rollout  4")  # the role, not the phase
    assert rollout.split()[:6] == ["rollout", "4", "25", "12", "812", "10.0.0.1"]
    for said in ("a step takes 4.0 s, mean of 10", "loss", "divergence", "student entropy", "13.2 tokens", "25%"):
        assert said in text
    assert "75.0%" in text and "-0.786 nats" in text and "step 20" in text
    assert text.index("lost           rollout worker 1") < text.index("checkpoint     step-000025")


def test_a_wide_terminal_has_two_columns_and_the_folder() -> None:
    lines = lines_of(make_look(), 140)
    assert lines[1].endswith("/runs/billing")
    assert "─ last 20 steps ─" in line_with(lines, "─ roles")
    assert len(lines) < len(lines_of(make_look(), 80))


def test_phases_are_ordered_by_their_time_and_what_takes_none_is_left_out() -> None:
    lines = lines_of(make_look())
    at = lines.index(next(line for line in lines if line.startswith("─ a step takes")))
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["forward", "rollout", "score"]
    assert lines[at + 1].split()[-3:] == ["3.00", "s", "75%"]
    assert not any(line.startswith("wait") for line in lines)


@pytest.mark.parametrize("height", [18, 24, 40, 60])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_frame_fits_a_terminal_of_any_height_and_keeps_room_for_events(width: int, height: int) -> None:
    events = make_view().events * 20
    lines = lines_of(make_look(events=events), width, height)
    assert len(lines) == height
    assert lines[-1].endswith("checkpoint     step-000025")
    assert len(lines) - lines.index(next(line for line in lines if "─ events" in line)) > MIN_EVENTS


def test_lost_workers_and_old_weights_are_told() -> None:
    status = make_status(versions={"learner": 25, "rollout": 24})
    workers = [replace(worker, serves=worker.rank != 1 or worker.role != "rollout") for worker in status.workers]
    lines = lines_of(make_look(status=replace(status, workers=tuple(workers))))
    assert line_with(lines, "rollout  3 of 4").split()[4] == "24"
    assert line_with(lines, "teacher  2").split()[2] == "fixed"


def test_what_goes_on_besides_steps_is_told_with_its_count() -> None:
    going_on = ("evaluating after step 20 130 of 266",)
    assert "now  evaluating after step 20 130 of 266" in lines_of(make_look(status=make_status(going_on=going_on)))


def test_values_that_are_not_finite_and_alarms_stand_out() -> None:
    steps = (make_step(1), make_step(2, **{"learner/loss": None, "loop/alarms": 2.0}))
    lines = lines_of(make_look(steps=steps))
    assert line_with(lines, "loss").split()[1:3] == ["not", "finite"]
    assert line_with(lines, "alarms").split()[1] == "2"
    assert "alarms" not in "\n".join(lines_of(make_look()))


def test_a_run_before_its_first_step_shows_what_the_driver_has_told() -> None:
    nothing: dict[str, Any] = {"steps": (), "first_evaluation": {}, "evaluation": {}, "events": ()}
    look = make_look(status=None, told="starting 2 rollout workers ...", **nothing)
    assert look.state is State.STARTING
    assert lines_of(look) == ["billing  starting", "starting 2 rollout workers ..."]
    first = lines_of(make_look(status=make_status(step=0), **nothing))
    assert line_with(first, "step 0 of 40").endswith("0%")


def test_a_driver_that_tells_nothing_more_is_silent_and_stacks_are_advised() -> None:
    look = make_look(now=NOW + 90)
    assert look.state is State.SILENT
    assert "silent for 1 min 31 s: see mode=stacks name=billing" in lines_of(look)[0]


ENDINGS = [
    (
        {"summary": {"num_steps": 40, "wall_s": 203.0, "verdict": "the bottleneck is wait, 40% of a step"}},
        State.FINISHED,
    ),
    ({"told": "error: learner worker 0 failed with OutOfMemoryError"}, State.ENDED),
    ({"status": make_status(ended="terminated")}, State.ENDED),
    ({}, State.GONE),
]


@pytest.mark.parametrize(("changes", "state"), ENDINGS)
def test_a_run_that_has_ended_says_how_and_what_to_do(changes: dict[str, Any], state: State) -> None:
    look = make_look(is_alive=False, **changes)
    lines = lines_of(look)
    assert look.state is state and state.has_ended
    assert state.words in lines[0]
    assert not any(line.startswith("─ roles") for line in lines), "nobody works any more"
    assert not any(line.endswith("left") for line in lines)
    if state is State.FINISHED:
        assert "40 steps in 3 min 23 s; the bottleneck is wait, 40% of a step" in lines
    else:
        assert "go on with  resume=auto name=billing" in lines


def test_a_driver_that_has_told_its_end_has_ended_before_its_process_is_gone() -> None:
    assert make_look(status=make_status(ended="terminated")).state is State.ENDED


def test_a_run_that_has_ended_without_a_status_tells_its_last_step() -> None:
    assert lines_of(make_look(is_alive=False, status=None))[1] == "step 25"


def test_the_reason_of_an_end_is_told_in_full() -> None:
    told = "error: learner worker 0 failed with " + "OutOfMemoryError of a very long kind " * 6
    text = " ".join(line.strip() for line in lines_of(make_look(is_alive=False, told=told)))
    assert told.strip() in text
