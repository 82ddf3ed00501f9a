"""When a lost learner is restored and from what, with roles in memory; `test_recovery.py` has real ones."""

import asyncio
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdft_ray.cluster.learner_recovery import LearnerRecovery
from sdft_ray.config import FaultsConfig
from sdft_ray.errors import PayloadLostError, WorkerLostError
from sdft_ray.faults import Fault, FaultKind
from sdft_ray.learner.checkpoint import complete, partial_folder
from sdft_ray.workers.group import WorkerGroup
from sdft_ray.workers.seat import Seat
from tests.fakes import FakeCompletions, FakeExamples, FakeTeacher

FAILURES = ExceptionGroup("of the loop", [WorkerLostError("learner worker 0 was lost: killed")])


class Examples(FakeExamples):
    def load_state(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Learner:
    """Ranks that have died as often as `deaths` says."""

    def __init__(self, version: int, deaths: int, checkpoints: Path):
        self.weight_version, self.deaths, self.root = version, deaths, checkpoints
        self.checkpoints = SimpleNamespace(saved_version=0, abandon=self.abandon, finish=self.finish)
        self.num_abandoned = 0
        self.unchanged = asyncio.Lock()
        self.resumed: list[str] = []
        self.group = SimpleNamespace(size=1, loss=None, locate=self.locate, renew=self.renew)
        self.kill()

    def kill(self) -> None:
        if self.deaths:
            self.deaths -= 1
            self.group.loss = WorkerLostError("learner worker 0 was lost: killed")

    async def locate(self) -> None:
        if self.group.loss:
            raise self.group.loss

    def renew(self, actors: Any) -> None:
        self.group.loss = None

    async def start(self) -> None:
        self.kill()
        await self.locate()

    async def resume(self, folder: Path) -> None:
        self.resumed.append(folder.name)
        self.weight_version = int(folder.name[5:])

    async def finish(self) -> None:
        """Nothing is being written."""

    async def abandon(self) -> None:
        self.num_abandoned += 1

    async def save_checkpoint(self, state: Any, *, wait: bool) -> None:
        assert wait, "nobody is there to wait for it later"
        write_checkpoint(self.root, self.weight_version, state)
        self.checkpoints.saved_version = self.weight_version


def write_checkpoint(root: Path, version: int, data: Any) -> None:
    root.mkdir(parents=True, exist_ok=True)
    complete(partial_folder(root, version), {"weight_version": version, "data": data, "layout": {}, "model": {}})


class Run:
    """A run whose loop has just ended, with its learner at step 7."""

    def __init__(self, path: Path, *, deaths: int, checkpoints: tuple[int, ...] = (), checkpoint_every: int = 5):
        self.folder: Any = SimpleNamespace(path=path, checkpoints=path / "checkpoints", resumed=None, resumed_step=None)
        for version in checkpoints:
            write_checkpoint(self.folder.checkpoints, version, {})
        self.learner = Learner(7, deaths, self.folder.checkpoints)
        self.examples = Examples(start=33)
        self.told: list[Fault] = []
        self.said: list[str] = []
        cfg: Any = SimpleNamespace(faults=FaultsConfig(learner_restarts=2), checkpoint_every=checkpoint_every)
        console: Any = SimpleNamespace(phase=lambda what: nullcontext(), say=self.said.append)
        self.recovery = LearnerRecovery(cfg, self.folder, console, self.told.append)
        self.completions, self.teacher = FakeCompletions(), FakeTeacher()
        self.roles: Any = SimpleNamespace(
            learner=self.learner,
            groups={"learner": self.learner.group},
            makers={"learner": lambda rank: rank},
            rollouts=None,
            completions=self.completions,
            teacher=self.teacher,
        )

    async def restore(self, failures: BaseExceptionGroup = FAILURES, first_step: int = 0) -> None:
        stage: Any = SimpleNamespace(
            first_step=first_step, cfg=SimpleNamespace(batch_size=4), inputs=SimpleNamespace(examples=self.examples)
        )
        await self.recovery.restore(failures, stage, self.roles)

    @property
    def kinds(self) -> list[FaultKind]:
        return [fault.kind for fault in self.told]


async def test_the_newest_checkpoint_is_loaded_by_learner_and_workers_and_later_samples_are_made_again(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, deaths=1, checkpoints=(2, 5))
    await run.restore()
    assert run.learner.resumed == ["step-000005"]
    assert run.completions.loaded == [5] and run.teacher.version == 5
    assert run.examples.position == 20
    assert run.kinds == [FaultKind.LOST, FaultKind.RESTORED, FaultKind.DROPPED]
    assert run.told[-1].count == 13


async def test_without_a_checkpoint_the_run_begins_again_with_the_model_folder(tmp_path: Path) -> None:
    run = Run(tmp_path, deaths=1)
    await run.restore()
    assert (run.learner.weight_version, run.examples.position, run.completions.loaded) == (0, 0, [0])


async def test_a_second_stage_without_a_checkpoint_cannot_go_on(tmp_path: Path) -> None:
    run = Run(tmp_path, deaths=1, checkpoint_every=0)
    with pytest.raises(ExceptionGroup):
        await run.restore(first_step=6)


async def test_a_learner_that_dies_again_and_again_ends_the_run_after_learner_restarts(tmp_path: Path) -> None:
    run = Run(tmp_path, deaths=2, checkpoints=(5,))
    await run.restore()
    assert run.kinds[:2] == [FaultKind.LOST] * 2 and FaultKind.RESTORED in run.kinds
    worn = Run(tmp_path / "worn", deaths=3, checkpoints=(5,))
    with pytest.raises(ExceptionGroup) as caught:
        await worn.restore()
    assert caught.value is FAILURES
    assert worn.kinds == [FaultKind.LOST] * 3


async def test_where_workers_are_lost_and_not_the_learner_the_run_stops_with_a_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, deaths=0, checkpoints=(5,))
    with pytest.raises(ExceptionGroup):
        await run.restore()
    assert (tmp_path / "checkpoints" / "step-000007" / "state.json").is_file()
    assert '"position": 28' in (tmp_path / "checkpoints" / "step-000007" / "state.json").read_text()
    assert run.said == ["stopped        behind step 7, with a checkpoint of it"]
    kept = Run(tmp_path / "none", deaths=0, checkpoint_every=0)
    with pytest.raises(ExceptionGroup):
        await kept.restore()
    assert not kept.folder.checkpoints.exists(), "checkpoint_every=0 saves none"


async def test_a_rank_that_could_not_read_a_payload_has_half_a_gradient_and_is_restored(tmp_path: Path) -> None:
    run = Run(tmp_path, deaths=0, checkpoints=(5,))
    lost = PayloadLostError("learner worker 0 failed with ObjectReconstructionFailedError")
    await run.restore(ExceptionGroup("", [lost]))
    assert run.learner.resumed == ["step-000005"]


async def test_what_a_rank_cannot_read_of_a_dead_node_is_a_lost_payload() -> None:
    from ray.exceptions import ObjectReconstructionFailedError, RayTaskError

    async def read(actor: int) -> None:
        cause = ObjectReconstructionFailedError("ab", "", "", "")
        raise RayTaskError("accumulate", "Traceback", cause)

    group = WorkerGroup("learner", [0], "logs")
    with pytest.raises(PayloadLostError, match="learner worker 0 failed with ObjectReconstructionFailedError"):
        await group.on_all(read)
    assert all(isinstance(seat, Seat) and seat.loss is None for seat in group._seats)


def damage(*folders: Path) -> None:
    for folder in folders:
        (folder / "state.json").write_text("{}")


async def test_checkpoints_that_are_all_damaged_make_way_and_the_run_begins_again(tmp_path: Path) -> None:
    """Or they would stay the newest, and those that the run saves from here would be removed beside them."""
    run = Run(tmp_path, deaths=1, checkpoints=(2, 5))
    damage(*run.folder.checkpoints.glob("step-*"))
    await run.restore()
    assert (run.learner.weight_version, run.learner.resumed) == (0, [])
    assert not list(run.folder.checkpoints.glob("step-*"))
    assert len(list((run.folder.checkpoints / "earlier").iterdir())) == 2


async def test_a_run_that_went_on_from_its_own_checkpoint_does_not_begin_at_another_place_once_all_are_damaged(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, deaths=1, checkpoints=(5,))
    run.folder.resumed, run.folder.resumed_step = run.folder.checkpoints / "step-000005", 5
    damage(run.folder.resumed)
    with pytest.raises(ExceptionGroup):
        await run.restore()
    assert run.learner.resumed == [] and "damaged" in run.said[0]


async def test_without_a_checkpoint_of_its_own_a_run_goes_on_from_that_of_the_run_it_came_from(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other", 3, {})
    run = Run(tmp_path / "run", deaths=1, checkpoints=(5,))
    run.folder.resumed, run.folder.resumed_step = tmp_path / "other" / "step-000003", 3
    damage(run.folder.checkpoints / "step-000005")
    await run.restore()
    assert run.learner.resumed == ["step-000003"]
    assert not list(run.folder.checkpoints.glob("step-*"))
