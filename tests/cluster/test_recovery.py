"""A whole run whose workers are killed and stopped, one after the other, held against the same run left alone.

Every role is a real process. What strikes does so while the role that it is after has work open. A run whose roles take
turns is struck in the same way, and has the samples and losses of the one whose roles do not.
"""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sdft_ray.cluster import topology
from sdft_ray.cluster.topology import Roles
from sdft_ray.workers.seat import Seat

NUM_STEPS = 12
COMMON = [
    f"num_steps={NUM_STEPS}",
    "checkpoint_every=3",
    "tracking.num_samples=4",  # the whole batch
    "learner.schedule=CONSTANT",
    "loss.skip_first_tokens=0",
]
QUICK = ["faults.hang_s=15"]  # longer than a step takes on a busy machine


def kill(process: psutil.Process) -> None:
    process.kill()


def kill_engine(process: psutil.Process) -> None:
    """Ends vLLM's process under the living actor."""
    (engine,) = [child for child in process.children(recursive=True) if "EngineCore" in " ".join(child.cmdline())]
    engine.kill()


def stop(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGSTOP)


def samples_or_scores(seat: Seat) -> bool:
    return bool(open_work(seat) & {"complete", "score"})


def does_anything(seat: Seat) -> bool:
    return bool(open_work(seat))


def loads(seat: Seat) -> bool:
    return "load weights" in open_work(seat)


def open_work(seat: Seat) -> set[str]:
    """What a worker has open; not that it falls asleep or wakes, which may take as long as files."""
    return {work.kind for work, _ in seat._open.values() if work.in_turn}


# At which weight version, in which role that does what, what happens.
Strike = tuple[int, str, Callable[[Seat], bool], Callable[[psutil.Process], None]]
STRIKES: dict[str, list[Strike]] = {
    "all at once": [
        (1, "rollout", samples_or_scores, kill),
        (2, "teacher", samples_or_scores, kill),
        (4, "rollout", loads, kill_engine),
        (5, "teacher", samples_or_scores, stop),
        (8, "learner", does_anything, kill),
    ],
    # A dead process is found in the same way as above. What differs is a turn whose role is silent, dies, or loads what
    # another role publishes in its own.
    "in turns": [
        (1, "rollout", loads, kill_engine),
        (4, "teacher", samples_or_scores, stop),
        (8, "learner", does_anything, kill),
    ],
}
ROLLOUT = [("rollout", "lost"), ("rollout", "replaced")]
TEACHER, HUNG_TEACHER = ([("teacher", found), ("teacher", "replaced")] for found in ("lost", "hung"))
LEARNER = [("learner", "lost"), ("learner", "restored"), ("learner", "dropped")]
FAULTS = {
    "all at once": [*ROLLOUT, *TEACHER, *ROLLOUT, *HUNG_TEACHER, *LEARNER],
    "in turns": [*ROLLOUT, *HUNG_TEACHER, *LEARNER],
}


class Saboteur:
    """Strikes as soon as the run is where a strike is due."""

    def __init__(self, strikes: list[Strike]) -> None:
        self._strikes = strikes
        self.num_strikes = 0
        self.struck: list[psutil.Process] = []  # and what they had started, engines among it

    async def work(self, roles: Roles) -> None:
        for version, role, is_busy, strike in self._strikes:
            group = roles.groups[role]
            while roles.learner.weight_version < version:
                await asyncio.sleep(0.001)
            while not any(is_busy(seat) for seat in group._seats):
                await asyncio.sleep(0)  # a tiny model is done in milliseconds
            (seat,) = group._seats
            process = psutil.Process(self.pids[seat.actor])
            self.struck += [process, *process.children(recursive=True)]
            strike(process)
            while seat is group._seats[0]:  # replaced
                await asyncio.sleep(0.01)
            await self.locate(roles)
            self.num_strikes += 1

    async def locate(self, roles: Roles) -> None:
        self.pids = {}
        for group in roles.groups.values():
            for seat, status in zip(group._seats, await group.on_all(lambda actor: actor.status.remote()), strict=True):
                self.pids[seat.actor] = status.process_id


@pytest.fixture(scope="module")
def outputs() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def undisturbed(launch: Any) -> Path:
    return launch("undisturbed", *COMMON)[0]


@pytest.fixture(scope="module", params=STRIKES)
def how(request: pytest.FixtureRequest) -> str:
    """Whether the roles compute all at once or in turns."""
    given: str = request.param
    return given


@pytest.fixture(scope="module")
def disturbed(how: str, launch: Any, outputs: dict[str, str]) -> Path:
    saboteur = Saboteur(STRIKES[how])

    async def start_roles(*args: Any) -> Roles:
        roles = await topology.start_roles(*args)
        await saboteur.locate(roles)
        start_roles.task = asyncio.create_task(saboteur.work(roles))  # type: ignore[attr-defined]
        return roles

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdft_ray.cluster.job.start_roles", start_roles)
        turns = ["cluster.turns=true"] if how == "in turns" else []
        path, outputs["disturbed"] = launch(f"disturbed-{how}".replace(" ", "-"), *COMMON, *QUICK, *turns)
    assert saboteur.num_strikes == len(STRIKES[how]), outputs["disturbed"]
    left = [process for process in saboteur.struck if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not left, "a lost worker's engine would keep its memory"
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_loss_is_found_told_and_made_good(disturbed: Path, how: str, outputs: dict[str, str]) -> None:
    faults = [(line["role"], line["kind"]) for line in lines(disturbed / "faults.jsonl")]
    assert faults == FAULTS[how], outputs["disturbed"]
    told = Counter()
    for line in lines(disturbed / "metrics.jsonl"):
        told.update({key: value for key, value in line.items() if key.startswith("faults/") and key[-2:] != "_s"})
    replaced = faults.count(("rollout", "replaced")) + faults.count(("teacher", "replaced"))
    # Those of steps that were taken back are told in faults.jsonl alone.
    assert told["faults/replaced_workers"] >= replaced - 1, told
    assert told["faults/learner_restarts"] == 1
    assert "hung           teacher worker 0 on" in outputs["disturbed"]


def test_each_example_is_trained_exactly_once(disturbed: Path, undisturbed: Path) -> None:
    def trained(run: Path) -> list[tuple[int, str, int]]:
        return [(line["step"], line["example_id"], line["epoch"]) for line in lines(run / "samples.jsonl")]

    assert trained(disturbed) == trained(undisturbed)
    assert len(set(trained(disturbed))) == NUM_STEPS * 4


def test_a_newcomer_samples_and_scores_with_the_weights_the_learner_holds(disturbed: Path, undisturbed: Path) -> None:
    steps = [line for line in lines(disturbed / "metrics.jsonl") if "learner/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, NUM_STEPS + 1))
    assert max(line["learner/mismatch_max_nats"] for line in steps) < 1e-4
    alone = [line for line in lines(undisturbed / "metrics.jsonl") if "learner/loss" in line]
    for key in ("learner/loss", "learner/divergence_nats", "learner/grad_norm", "rollout/completion_tokens_mean"):
        assert [line[key] for line in steps] == pytest.approx([line[key] for line in alone], rel=1e-3, abs=1e-5), key
