"""Checkpoints are complete or absent, also after a kill between any two lines."""

from pathlib import Path

import pytest
import torch

from sdft_ray.errors import CheckpointError
from sdft_ray.learner.checkpoint import (
    abandon_later,
    complete,
    complete_checkpoints,
    load_rank,
    partial_folder,
    read_state,
    save_rank,
)
from sdft_ray.models.state import saved_buffers
from sdft_ray.weights.fragments import Fragment, TeacherAverage
from tests.buffered import FAMILIES, make_buffered


def save(root: Path, version: int, keep: int = 2) -> Path:
    folder = partial_folder(root, version)
    (folder / "rank-0.pt").write_text(str(version))
    return complete(folder, {"weight_version": version}, keep)


def test_a_written_checkpoint_counts_only_once_it_is_complete(tmp_path: Path) -> None:
    save(tmp_path, 1)
    partial_folder(tmp_path, 2)  # killed before it was complete
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step-000001"]
    assert read_state(save(tmp_path, 2)) == {"weight_version": 2}
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step-000001", "step-000002"]


def test_the_newest_are_kept_by_number(tmp_path: Path) -> None:
    for version in (9, 10, 100):
        save(tmp_path, version)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step-000010", "step-000100"]


def test_what_a_killed_run_left_is_not_mixed_into_the_next_attempt(tmp_path: Path) -> None:
    (partial_folder(tmp_path, 3) / "rank-7.pt").write_text("stale")
    assert sorted(path.name for path in save(tmp_path, 3).iterdir()) == ["rank-0.pt", "state.json"]


def test_saving_a_step_again_moves_the_one_before_out_of_the_way(tmp_path: Path) -> None:
    save(tmp_path, 5)
    folder = save(tmp_path, 5)
    assert complete_checkpoints(tmp_path) == [folder]
    assert read_state(tmp_path / "earlier" / "step-000005.1") == {"weight_version": 5}


def test_going_another_way_moves_the_runs_own_later_checkpoints_and_no_others(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for version in (1, 2, 3):
        save(own, version, keep=3)
        save(other, version, keep=3)
    for _ in range(2):
        abandon_later(own / "step-000001", own)
        save(own, 2, keep=3)
    abandon_later(other / "step-000001", own)
    assert [path.name for path in complete_checkpoints(own)] == ["step-000001", "step-000002"]
    kept = {path.name for path in (own / "earlier").iterdir()}
    assert kept == {"step-000002.1", "step-000002.2", "step-000003.1"}
    assert len(complete_checkpoints(other)) == 3


def test_a_folder_without_a_state_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        read_state(tmp_path)


class FakeEngine:
    """Saves nothing of its own."""

    def __init__(self, student: torch.nn.Module):
        self.student = student

    def save(self, folder: str) -> None:
        pass

    def load(self, folder: str) -> bool:
        return True


@pytest.mark.parametrize("family", FAMILIES)
def test_a_resumed_network_has_the_saved_buffers(tmp_path: Path, family: str) -> None:
    saved, resumed = make_buffered(family), make_buffered(family, seed=1)
    save_rank(tmp_path, FakeEngine(saved), None, rank=0)
    load_rank(tmp_path, FakeEngine(resumed), None, rank=0)
    for name, buffer in saved_buffers(saved).items():
        assert torch.equal(saved_buffers(resumed)[name], buffer)


def test_a_checkpoint_of_a_network_with_other_buffers_is_refused_by_their_names(tmp_path: Path) -> None:
    save_rank(tmp_path, FakeEngine(make_buffered("gemma4_text")), None, rank=0)
    with pytest.raises(CheckpointError, match=r"layers\.0\.layer_scalar.*e_score_correction_bias"):
        load_rank(tmp_path, FakeEngine(make_buffered("deepseek_v3")), None, rank=0)


def test_an_average_saved_on_a_gpu_is_read_into_host_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch reads values to the device they are marked with, unless told where: without a GPU it would refuse."""
    saved, resumed = (TeacherAverage([Fragment("p", 0, torch.full((3,), value))], 0.9) for value in (1.0, 2.0))
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        save_rank(tmp_path, FakeEngine(torch.nn.Module()), saved, rank=0)
    load_rank(tmp_path, FakeEngine(torch.nn.Module()), resumed, rank=0)
    assert [values.tolist() for _, _, values in resumed.fragments()] == [[1.0, 1.0, 1.0]]
