"""When a worker counts as hung, and that nothing of a worker is waited for without a deadline."""

import ast
import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.config import FaultsConfig
from sdft_ray.errors import WorkerLostError
from sdft_ray.workers import seat
from sdft_ray.workers.deadlines import Deadlines, Pace, Work, written
from sdft_ray.workers.group import WorkerGroup

PACKAGE = Path(__file__).parents[2] / "sdft_ray"
FAULTS = FaultsConfig(hang_s=60.0, first_call_s=600.0, files_s=7200.0, start_s=1800.0)
# What a group or a worker is asked with; the others of their names are of other things.
ASKS = {"call", "on_first", "on_all", "on_each", "on_serving"}


def test_the_first_call_of_a_kind_may_compile_and_later_ones_have_five_times_the_usual() -> None:
    deadlines, work = Deadlines(FAULTS), Work("score", 100)
    assert deadlines.limit_s(Work("apply"), is_first=True, num_open=1) == 600
    assert deadlines.limit_s(Work("complete", 32_001), is_first=True, num_open=1) == 7000, "nobody has answered yet"
    assert deadlines.limit_s(work, is_first=False, num_open=1) == 60
    deadlines.learn(work, silence_s=20.0, num_open=1)
    assert deadlines.limit_s(work, is_first=False, num_open=1) == 100


def test_a_longer_completion_and_a_larger_batch_have_more_time() -> None:
    deadlines = Deadlines(FAULTS)
    deadlines.learn(Work("score", 100), silence_s=20.0, num_open=2)
    assert deadlines.limit_s(Work("score", 400), is_first=False, num_open=2) == 400
    assert deadlines.limit_s(Work("score", 100), is_first=False, num_open=8) == 400
    assert deadlines.limit_s(Work("answer", 400), is_first=False, num_open=2) == 60, "another kind"


def test_a_long_completion_is_not_judged_by_short_ones_that_read_long_prompts() -> None:
    """150 tokens a second read, 5 written: 50 tokens behind a prompt of 500 take 13 s, and 1024 take 208 s."""
    deadlines = Deadlines(FAULTS)
    deadlines.learn(Work("complete", written(500, 50)), silence_s=13.3, num_open=1)
    assert deadlines.limit_s(Work("complete", written(500, 1024)), is_first=False, num_open=1) > 2 * 208


def test_files_and_starts_have_limits_of_their_own() -> None:
    deadlines = Deadlines(FAULTS)
    assert deadlines.limit_s(Work("save", pace=Pace.STORAGE), is_first=True, num_open=1) == 7200
    assert deadlines.limit_s(Work("save", pace=Pace.STORAGE), is_first=False, num_open=1) == 600
    assert deadlines.limit_s(Work("ready", pace=Pace.START), is_first=True, num_open=1) == 1800
    assert deadlines.limit_s(Work("load weights", most_s=30.0), is_first=True, num_open=1) == 30


async def answer_after(actor: float, seconds: float) -> float:
    await asyncio.sleep(seconds)
    return actor


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> FaultsConfig:
    monkeypatch.setattr(seat, "POLL_S", 0.05)
    return FaultsConfig(hang_s=0.3, first_call_s=0.3, start_s=0.3)


async def test_a_call_behind_others_in_a_queue_that_moves_is_never_late(quick: FaultsConfig) -> None:
    group = WorkerGroup("rollout", [7], "logs", faults=quick)
    calls = [group.call(lambda actor, n=n: answer_after(actor, 0.2 * n)) for n in range(1, 6)]
    assert await asyncio.gather(*calls) == [7] * 5


async def test_a_call_behind_a_long_one_of_another_kind_waits_as_long_as_that_may_take(quick: FaultsConfig) -> None:
    """A newcomer's weights are asked for while the learner saves."""
    faults = replace(quick, files_s=5.0)
    group = WorkerGroup("learner", [7], "logs", faults=faults)
    await group.on_all(lambda actor: answer_after(actor, 0.0), Work("publish"))
    saving = asyncio.ensure_future(
        group.on_all(lambda actor: answer_after(actor, 0.9), Work("save", pace=Pace.STORAGE))
    )
    assert await group.on_all(lambda actor: answer_after(actor, 0.8), Work("publish")) == [7]
    await saving


async def test_a_worker_that_does_not_answer_is_lost_with_all_that_is_open_on_it(quick: FaultsConfig) -> None:
    group = WorkerGroup("rollout", [7], "logs", faults=quick)

    async def stuck(actor: int) -> int:
        await asyncio.sleep(3600)
        return actor

    calls = [asyncio.ensure_future(group.call(stuck, Work("complete", 1.0))) for _ in range(3)]
    errors = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), timeout=5)
    assert all(error is errors[0] for error in errors)
    assert isinstance(errors[0], WorkerLostError)
    assert "rollout worker 0 was lost: it has not answered a call (complete) for 0 s" in str(errors[0])
    with pytest.raises(WorkerLostError):
        await group.call(lambda actor: answer_after(actor, 0.0))


async def test_a_driver_that_was_stopped_itself_blames_no_worker(quick: FaultsConfig) -> None:
    """As by a suspended machine: the answer was on its way all the time."""
    import time

    group = WorkerGroup("rollout", [7], "logs", faults=quick)
    call = asyncio.ensure_future(group.call(lambda actor: answer_after(actor, 0.1)))
    await asyncio.sleep(0.01)
    time.sleep(1.0)
    assert await call == 7


def test_every_remote_call_and_every_object_that_is_waited_for_has_a_deadline() -> None:
    """Calls are made by groups (`test_group.py`), which bound them; each says its kind of work, by which they learn."""
    unbounded, num_asked = [], 0
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            place = f"{name}:{node.lineno}"
            if is_of_ray(node.func, "get", "wait") and "timeout" not in {keyword.arg for keyword in node.keywords}:
                unbounded.append(place)
            if node.func.attr in ASKS and takes_an_actor(node):
                num_asked += 1
                if len(node.args) + len(node.keywords) < (3 if node.func.attr == "on_each" else 2):
                    unbounded.append(place)
    assert num_asked > 20
    assert not unbounded, f"say the Work of a call, and the timeout of what Ray is asked for: {unbounded}"


def is_of_ray(function: ast.Attribute, *names: str) -> bool:
    return isinstance(function.value, ast.Name) and function.value.id == "ray" and function.attr in names


def takes_an_actor(node: ast.Call) -> bool:
    """True for `group.on_all(lambda actor: ...)` and for a function by name, other than those of the package's own."""
    first: Any = node.args[0] if node.args else None
    if isinstance(first, ast.Lambda):
        return bool(first.args.args) and first.args.args[0].arg == "actor"
    return isinstance(first, ast.Name) and first.id in ("_notes", "scores_and_handle")
