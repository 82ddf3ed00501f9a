"""What the driver hears of workers that fail, in a real Ray cluster."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from sdft_ray.errors import NonFiniteError, WeightVersionError, WorkerError, WorkerLostError
from sdft_ray.records import Publication
from sdft_ray.weights.channel import Meeting, WeightKind
from sdft_ray.weights.nccl import NcclChannel
from sdft_ray.workers.closing import close_all
from sdft_ray.workers.group import WorkerGroup
from sdft_ray.workers.worker import Worker


class Unreliable(Worker):
    """Fails in the way it is asked to."""

    role = "unreliable"

    def __init__(self, rank: int, log_dir: str, problem: str = ""):
        super().__init__(rank, log_dir)
        if problem:
            raise RuntimeError(problem)
        print("up and running", flush=True)

    def add(self, number: int) -> int:
        return self.rank + number

    def fail(self) -> None:
        raise KeyError("a missing thing")

    def diverge(self) -> None:
        raise NonFiniteError("loss", 3, ["example-7"])

    def die(self) -> None:
        os._exit(1)

    def close(self) -> None:
        time.sleep(60)


@pytest.fixture
def make_group(cluster: None, tmp_path: Path) -> Any:
    made: list[Any] = []

    def make(size: int = 1, **settings: Any) -> WorkerGroup:
        remote = ray.remote(Unreliable).options(num_cpus=0)
        actors = [remote.remote(rank=rank, log_dir=str(tmp_path), **settings) for rank in range(size)]
        made.extend(actors)
        return WorkerGroup("unreliable", actors, str(tmp_path))

    yield make
    for actor in made:
        ray.kill(actor)


def test_answers_come_in_rank_order_each_for_its_own_item(make_group: Any) -> None:
    group = make_group(3)
    assert asyncio.run(group.on_each(lambda actor, number: actor.add.remote(number), [10, 20, 30])) == [10, 21, 32]
    assert [status.rank for status in asyncio.run(group.status())] == [0, 1, 2]


def test_calls_go_to_the_least_busy_worker(make_group: Any) -> None:
    group = make_group(2)

    async def two_at_once() -> list[int]:
        return await asyncio.gather(*(group.call(lambda actor: actor.add.remote(10)) for _ in range(2)))

    assert asyncio.run(two_at_once()) == [10, 11]


def test_a_failure_names_the_worker_and_its_log(make_group: Any, tmp_path: Path) -> None:
    group = make_group(2)
    asyncio.run(group.status())
    with pytest.raises(WorkerError, match=r"unreliable worker 1 failed with KeyError: 'a missing thing'\nIts log: "):
        asyncio.run(group.on_each(lambda actor, fails: actor.fail.remote() if fails else actor.add.remote(1), [0, 1]))
    assert "up and running" in (tmp_path / "unreliable-1.log").read_text()


def test_an_error_a_user_can_mend_arrives_as_it_was_raised(make_group: Any) -> None:
    with pytest.raises(NonFiniteError, match="NaN or infinite: loss in step 3, samples: example-7"):
        asyncio.run(make_group().on_all(lambda actor: actor.diverge.remote()))


def test_a_dead_worker_is_an_error_and_not_a_hang(make_group: Any) -> None:
    with pytest.raises(WorkerLostError, match=r"unreliable worker 0 on \S+ was lost: its process has died \(ActorDied"):
        asyncio.run(make_group().call(lambda actor: actor.die.remote()))


def test_a_worker_that_cannot_start_says_why(make_group: Any) -> None:
    group = make_group(problem="no such device")
    with pytest.raises(WorkerError, match="failed with RuntimeError: no such device"):
        asyncio.run(group.status())


def test_a_worker_that_does_not_close_is_ended(make_group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdft_ray.workers.closing.CLOSING_TIMEOUT_S", 0.5)
    group = make_group(2)
    asyncio.run(group.status())
    started = time.monotonic()
    close_all([group])
    assert time.monotonic() - started < 20, "closing took as long as the slowest worker wanted"
    with pytest.raises(WorkerError):
        asyncio.run(group.status())


def test_a_worker_with_other_weights_than_it_was_to_load_is_found_out(make_group: Any) -> None:
    group = make_group(2)
    group.confirm_version({0: 4, 1: 4}, 4)
    with pytest.raises(WeightVersionError, match="unreliable worker 1 holds weights 3 after loading 4"):
        group.confirm_version({0: 4, 1: 3}, 4)


class Guest(Worker):
    """Comes to a meeting, as the learner or as an engine, and tells what it was told."""

    role = "guest"

    def rendezvous(self) -> tuple[str, int]:
        return "10.0.0.1", 4321

    def connect(self, meeting: Meeting, first_rank: int | None = None) -> tuple[int, Meeting]:
        self.told = (meeting, first_rank)
        return self.rank, meeting

    def what_it_was_told(self) -> tuple[Meeting, int | None]:
        return self.told


def test_learner_and_engines_meet_with_a_rank_for_every_gpu(cluster: None, tmp_path: Path) -> None:
    """Rank 0 is the learner's; an engine on two GPUs has two."""
    remote = ray.remote(Guest).options(num_cpus=0)
    learner, engines = (
        WorkerGroup("guest", [remote.remote(rank=rank, log_dir=str(tmp_path)) for rank in range(2)], str(tmp_path))
        for _ in range(2)
    )

    async def publish(kind: WeightKind, version: int) -> Publication:
        raise AssertionError("nothing is published before both ends have met")

    channel = NcclChannel(publish, 1.0)
    asyncio.run(channel.connect(learner, engines, ranks_per_engine=2))
    expected = Meeting("10.0.0.1", 4321, num_ranks=5)
    assert channel.announcement == (0, expected)
    told = asyncio.run(engines.on_all(lambda actor: actor.what_it_was_told.remote()))
    assert told == [(expected, 1), (expected, 3)]
    close_all([learner, engines])
