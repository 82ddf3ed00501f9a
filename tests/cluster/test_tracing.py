"""Which steps are traced, and when workers are asked; the workers are in memory, and real ones in test_job.py."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sdft_ray.cluster.tracing import Tracer
from sdft_ray.errors import WorkerLostError
from sdft_ray.records import Span, WorkerStatus
from sdft_ray.tracking.console import ConsoleSink
from sdft_ray.tracking.phases import PhaseTimer
from sdft_ray.workers.spans import recorded
from tests.fakes import make_status


class Method:
    def __init__(self, answer: Callable[..., Any]):
        self._answer = answer

    async def remote(self, *arguments: Any) -> Any:
        await asyncio.sleep(0)
        return self._answer(*arguments)


class FakeActor:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.begin_spans = Method(lambda: self.asked.append("begin"))
        self.spans = Method(self._spans)

    def _spans(self, ends: bool) -> tuple[WorkerStatus, tuple[Span, ...]]:
        self.asked.append("end" if ends else "take")
        return make_status(process_id=7), ()


class FakeGroup:
    def __init__(self) -> None:
        self.actor = FakeActor()
        self.loss: WorkerLostError | None = None

    async def on_serving(self, call: Callable[[Any], Awaitable[Any]], work: object) -> dict[int, Any]:
        if self.loss is not None:
            raise self.loss
        return {0: await call(self.actor)}


class Training:
    """A loop of steps that take a moment each."""

    def __init__(self, folder: Path, steps: list[int]):
        self.said = io.StringIO()
        self.group = FakeGroup()
        self.tracer = Tracer(steps, folder, ConsoleSink(99, Console(file=self.said, width=200)))

    async def run(self, first: int, last: int) -> None:
        timer = PhaseTimer()
        async with self.tracer.around({"rollout": self.group}, first - 1, 4):  # type: ignore[dict-item]
            for step in range(first, last + 1):
                with timer.phase("loop/step_s"):
                    await asyncio.sleep(0.001)
                self.tracer.watch(step, {"learner/loss": 0.5})
                await asyncio.sleep(0.001)


def steps_of(path: Path) -> list[int]:
    steps: list[int] = json.loads(path.read_text())["otherData"]["steps"]
    return steps


async def test_steps_in_a_row_are_one_file_and_recording_ends_with_the_last(tmp_path: Path) -> None:
    training = Training(tmp_path, [4, 5, 9])
    await training.run(1, 12)
    assert {path.name: steps_of(path) for path in (tmp_path / "traces").iterdir()} == {
        "steps-4-5.json": [4, 5],
        "step-9.json": [9],
    }
    asked = training.group.actor.asked
    assert (asked[0], asked[-1], asked.count("take"), asked.count("end")) == ("begin", "end", 1, 1)
    assert recorded() == ()


async def test_no_worker_is_asked_and_nothing_recorded_where_no_step_is_traced(tmp_path: Path) -> None:
    for steps in ([], [40]):
        training = Training(tmp_path, steps)
        await training.run(1, 6)
        assert training.group.actor.asked == []
    assert not list(tmp_path.iterdir())


async def test_the_last_step_of_a_run_is_written_when_training_ends(tmp_path: Path) -> None:
    await Training(tmp_path, [2, 3, 7]).run(1, 3)
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["steps-2-3.json"]


async def test_a_step_that_is_taken_again_moves_its_first_trace_to_earlier(tmp_path: Path) -> None:
    training = Training(tmp_path, [2])
    await training.run(1, 3)
    await training.run(2, 3)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")) == [
        "traces/earlier/step-2.1.json",
        "traces/step-2.json",
    ]


async def test_a_lost_worker_costs_the_trace_and_not_the_run(tmp_path: Path) -> None:
    training = Training(tmp_path, [2])
    training.group.loss = WorkerLostError("learner worker 0 was lost")
    await training.run(1, 4)
    assert "not traced" in training.said.getvalue() and "learner worker 0 was lost" in training.said.getvalue()


async def test_training_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    training = Training(tmp_path, [1])
    with pytest.raises(ValueError):
        async with training.tracer.around({"rollout": training.group}, 0, 4):  # type: ignore[dict-item]
            raise ValueError
    assert recorded() == () and not list(tmp_path.iterdir())
