"""The driver's side of saving, with ranks in memory: what training waits for, what is kept, what a full disk does."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sdft_ray.config import Best, Saving
from sdft_ray.errors import CheckpointError
from sdft_ray.learner.checkpoint import complete, complete_checkpoints, read_state
from sdft_ray.learner.fragment_files import Piece, write_pieces
from sdft_ray.learner.manifest import SavedFile, check_sound
from sdft_ray.learner.saving import BestCheckpoint, CheckpointWriter, SavingPlan
from sdft_ray.workers.group import WorkerGroup
from tests.full_disk import no_file_beyond, small_file_system

STATE = {"data": {}, "layout": {}, "model": {}}


class Remote:
    """A method of a rank, called as that of an actor."""

    def __init__(self, method: Any):
        self._method = method

    def remote(self, *arguments: Any) -> Any:
        async def answer() -> Any:
            return self._method(*arguments)

        return answer()


class FakeRank:
    """Writes a thousand values, in the background when it is told to."""

    def __init__(self) -> None:
        self.save, self.saved = Remote(self._save), Remote(lambda: self._answer)
        self.may_write = True
        self._folder = Path()

    @property
    def _answer(self) -> SavedFile | str | None:
        if not self.may_write:
            return None
        try:
            return write_pieces(self._folder / "rank-0.safetensors", [Piece("student", "p", 0, torch.ones(1000))], {})
        except OSError as error:
            return str(error.strerror)

    def _save(self, folder: str, background: bool) -> SavedFile | str | None:
        self._folder = Path(folder)
        return None if background else self._answer


def make_writer(root: Path, rank: FakeRank | None = None, **plan: Any) -> tuple[CheckpointWriter, list[str]]:
    said: list[str] = []
    workers = WorkerGroup("learner", [rank or FakeRank()], "logs")
    return CheckpointWriter(workers, SavingPlan(root=root, say=said.append, **plan)), said


def names(root: Path) -> list[str]:
    return [folder.name for folder in complete_checkpoints(root)]


async def test_training_goes_on_while_a_checkpoint_is_written_and_the_next_save_waits_for_it(tmp_path: Path) -> None:
    rank = FakeRank()
    rank.may_write = False
    writer, _ = make_writer(tmp_path, rank, saving=Saving.BACKGROUND)
    await asyncio.wait_for(writer.save(1, STATE, wait=False), 5)
    assert names(tmp_path) == [] and writer.saved_version == 0
    following = asyncio.create_task(writer.save(2, STATE, wait=True))
    await asyncio.sleep(0.05)
    assert not following.done() and not (tmp_path / "step-000002.partial").exists()
    rank.may_write = True
    await asyncio.wait_for(following, 5)
    assert names(tmp_path) == ["step-000001", "step-000002"] and writer.saved_version == 2
    assert writer.take_metrics()["learner/save_s"] > 0.0
    check_sound(tmp_path / "step-000001")


async def test_the_newest_checkpoint_grows_older_until_the_next_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("sdft_ray.learner.saving.time.monotonic", lambda: now)
    writer, _ = make_writer(tmp_path, max_failed_saves=2)
    ages = []
    for version, seconds in enumerate((60.0, 30.0, 45.0), start=1):
        now += seconds
        ages.append(writer.take_metrics()["learner/checkpoint_age_s"])
        with no_file_beyond(2000 if version == 2 else 2**30):  # a save that fails makes nothing newer
            await writer.save(version, STATE, wait=True)
    assert ages == [60.0, 30.0, 75.0]


async def test_a_run_that_saves_no_checkpoints_tells_no_age(tmp_path: Path) -> None:
    writer, _ = make_writer(tmp_path, saves=False)
    assert writer.take_metrics() == {}


async def test_a_checkpoint_tells_what_its_run_was(tmp_path: Path) -> None:
    writer, _ = make_writer(tmp_path, facts={"code": {"sdft_ray": "9"}})
    await writer.save(3, STATE, wait=True)
    assert read_state(tmp_path / "step-000003")["code"] == {"sdft_ray": "9"}


async def test_a_full_disk_costs_a_checkpoint_and_the_next_save_tries_again(tmp_path: Path) -> None:
    writer, said = make_writer(tmp_path, max_failed_saves=2)
    await writer.save(1, STATE, wait=True)
    for version in (2, 4):  # not in a row
        with no_file_beyond(2000):
            await writer.save(version, STATE, wait=True)
        assert names(tmp_path)[-1] == f"step-{version - 1:06}"
        assert not list(tmp_path.glob("*.partial")), "what it has written takes room"
        assert writer.take_metrics()["learner/failed_saves"] == 1.0
        await writer.save(version + 1, STATE, wait=True)
    assert names(tmp_path) == ["step-000003", "step-000005"]
    assert [line.split(";")[0].split("  ")[-1].strip() for line in said] == [
        f"the checkpoint of step {version} could not be written (File too large)" for version in (2, 4)
    ]
    assert "step-000003 stays; training goes on, and the next save tries again" in said[1]


async def test_so_many_failures_in_a_row_end_the_run_with_the_last_sound_checkpoint(tmp_path: Path) -> None:
    writer, said = make_writer(tmp_path, max_failed_saves=2)
    await writer.save(1, STATE, wait=True)
    with no_file_beyond(2000):
        await writer.save(2, STATE, wait=True)
        with pytest.raises(CheckpointError, match=r"step 3 .*step-000001 stays\. That was save 2 in a row.*max_failed"):
            await writer.save(3, STATE, wait=True)
    check_sound(tmp_path / "step-000001")


async def test_a_disk_that_is_full_only_for_the_drivers_files_is_a_failed_save_as_well(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", 64) as disk:
        writer, said = make_writer(disk / "checkpoints", max_failed_saves=9, keep=9, facts={"long": "x" * 40_000})
        await writer.save(1, STATE, wait=True)
        await writer.save(2, STATE, wait=True)
        assert names(disk / "checkpoints") == ["step-000001"]
        check_sound(disk / "checkpoints" / "step-000001")
        assert "No space left on device" in said[0]


async def test_a_folder_that_was_deleted_while_training_is_not_made_again_for_a_checkpoint(tmp_path: Path) -> None:
    writer, said = make_writer(tmp_path / "run" / "checkpoints", max_failed_saves=2)
    await writer.save(1, STATE, wait=True)
    with pytest.raises(CheckpointError, match="save 2 in a row"):
        await writer.save(2, STATE, wait=True)
    assert "there is no earlier one" in said[0]
    assert list(tmp_path.iterdir()) == []


async def test_a_run_whose_folder_is_another_runs_by_now_writes_no_more(tmp_path: Path) -> None:
    def check_held() -> None:
        raise CheckpointError("taken over")

    writer, _ = make_writer(tmp_path, check_held=check_held)
    with pytest.raises(CheckpointError, match="taken over"):
        await writer.save(1, STATE, wait=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("better", "kept"), [(Best.HIGHEST, "step-000002"), (Best.LOWEST, "step-000003")], ids=["HIGHEST", "LOWEST"]
)
async def test_the_best_checkpoint_is_kept_beside_the_newest_and_named(tmp_path: Path, better: Best, kept: str) -> None:
    best = BestCheckpoint("evaluation/taught_accuracy", better)
    best.take_over([{"step": 1, "learner/loss": 0.1}])
    writer, _ = make_writer(tmp_path, best=best, keep=1)
    for version, value in enumerate([0.5, 0.9, 0.1, float("nan"), 0.7], start=1):
        best.log_evaluation(version, 0.0, {"evaluation/taught_accuracy": value})
        await writer.save(version, STATE, wait=True)
    assert names(tmp_path) == [kept, "step-000005"]
    summary = best.summary(tmp_path)
    assert summary is not None and summary["folder"] == f"{tmp_path.name}/{kept}"


async def test_the_best_of_a_resumed_run_is_that_of_the_whole(tmp_path: Path) -> None:
    writer, _ = make_writer(tmp_path)
    for version in (1, 2):
        await writer.save(version, STATE, wait=True)
    best = BestCheckpoint("learner/loss", Best.LOWEST)
    best.take_over([{"step": 1, "learner/loss": 0.1}, {"step": 2, "learner/loss": 0.2}, {"step": 2, "x/y": None}])
    assert best.choose(tmp_path) == (tmp_path / "step-000001", 0.1)
    assert BestCheckpoint().choose(tmp_path) is None


async def test_a_save_that_is_given_up_while_it_is_completed_is_complete_when_giving_up_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would appear behind the back of the restored learner, as the newest checkpoint of weights it never had."""
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(*arguments: Any) -> Path:
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.3)
        return complete(*arguments)

    monkeypatch.setattr("sdft_ray.learner.saving.complete", slow)
    writer, _ = make_writer(tmp_path, saving=Saving.BACKGROUND)
    await writer.save(1, STATE, wait=False)
    await begun.wait()
    await writer.abandon()
    assert names(tmp_path) == ["step-000001"]


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "rank-0.safetensors").write_text("kept")
    with pytest.raises(FileExistsError):
        write_pieces(tmp_path / "rank-0.safetensors", [], {})
    assert os.listdir(tmp_path) == ["rank-0.safetensors"]
