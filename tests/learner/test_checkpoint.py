"""Checkpoints are complete or absent, also after a kill between any two lines; damaged ones are found and named."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sdft_ray.config import AdapterConfig, AdapterKind
from sdft_ray.errors import CheckpointError
from sdft_ray.learner.checkpoint import (
    FORMAT,
    STATE_FILE,
    abandon_later,
    check_adapter_facts,
    check_named,
    check_state,
    complete,
    complete_checkpoints,
    load_rank,
    newest_sound,
    partial_folder,
    prune,
    rank_metadata,
    rank_pieces,
    read_state,
    write_rank,
)
from sdft_ray.learner.fragment_files import Piece
from sdft_ray.learner.manifest import MANIFEST_FILE, SavedFile
from sdft_ray.models.adapter import adapter_facts
from sdft_ray.models.state import saved_buffers
from sdft_ray.weights.fragments import Fragment, TeacherAverage
from tests.buffered import FAMILIES, make_buffered

STATE = {"data": {}, "layout": {}, "model": {}}


class FakeEngine:
    """One parameter of four values on two ranks, cut where a test says; its moments are twice the values."""

    def __init__(
        self, student: torch.nn.Module | None = None, start: int = 0, values: tuple[float, ...] = (1, 2, 3, 4)
    ):
        self.student = student or torch.nn.Module()
        self.values = torch.tensor(values, dtype=torch.float32)
        self.moments = 2 * self.values
        self.updates: Mapping[str, float] = {}
        self._start = start

    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return (("p", (2, 2)),)

    def num_updates(self) -> dict[str, float]:
        return {"p": 7.0}

    def pieces(self) -> Iterator[Piece]:
        yield Piece("student", "p", self._start, self.values)
        yield Piece("exp_avg", "p", self._start, self.moments)

    def restore(self, read: Callable[[str, str, int, int], torch.Tensor], num_updates: Mapping[str, float]) -> None:
        self.values = read("student", "p", self._start, len(self.values))
        self.moments = read("exp_avg", "p", self._start, len(self.moments))
        self.updates = num_updates


def save_rank(folder: Path, engine: FakeEngine, average: TeacherAverage | None = None, rank: int = 0) -> SavedFile:
    saved = write_rank(folder, rank, rank_pieces(engine, average, rank), rank_metadata(engine))
    assert isinstance(saved, SavedFile), saved
    return saved


def save(root: Path, version: int) -> Path:
    """A checkpoint of two ranks."""
    folder = partial_folder(root, version)
    engines = [FakeEngine(start=0, values=(1, 2, 3)), FakeEngine(start=3, values=(4,))]
    files = [save_rank(folder, engine, rank=rank) for rank, engine in enumerate(engines)]
    return complete(folder, {"weight_version": version, **STATE}, files)


def test_a_written_checkpoint_counts_only_once_it_is_complete(tmp_path: Path) -> None:
    save(tmp_path, 1)
    partial_folder(tmp_path, 2)  # killed before it was complete
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step-000001"]
    assert read_state(save(tmp_path, 2)) == {"format": FORMAT, "weight_version": 2, **STATE}
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step-000001", "step-000002"]


def test_everything_is_on_the_disk_before_the_checkpoint_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut loses what is in the cache of the operating system only."""
    synced: list[str] = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.readlink(f"/proc/self/fd/{file}")), sync(file))[1])
    monkeypatch.setattr(Path, "rename", lambda self, to: (synced.append("renamed"), rename(self, to))[1])
    folder = save(tmp_path, 1)
    scratch, before = f"{folder}.partial", synced[: synced.index("renamed")]
    names = ["rank-0.safetensors", "rank-1.safetensors", STATE_FILE, MANIFEST_FILE]
    assert before == [*(f"{scratch}/{name}" for name in names), scratch]
    assert synced[len(before) + 1 :] == [str(tmp_path)]


def test_the_newest_are_kept_by_number_and_the_best_beside_them(tmp_path: Path) -> None:
    for version in (8, 9, 10, 100):
        save(tmp_path, version)
    prune(tmp_path, keep=2, best=tmp_path / "step-000008")
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step-000008", "step-000010", "step-000100"]


def test_what_kills_have_left_of_writing_and_of_removing_goes_with_the_next(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        save(tmp_path, version)
    partial_folder(tmp_path, 7)
    (tmp_path / "step-000001").rename(tmp_path / "step-000001.removed")
    prune(tmp_path, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


def test_a_kill_while_a_checkpoint_is_removed_leaves_none_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(folder: Path) -> None:
        (folder / STATE_FILE).unlink()
        raise Killed

    folders = [save(tmp_path, version) for version in (1, 2)]
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(shutil, "rmtree", kill)
        prune(tmp_path, keep=1)
    assert complete_checkpoints(tmp_path) == folders[1:]


def test_what_a_killed_run_left_is_not_mixed_into_the_next_attempt(tmp_path: Path) -> None:
    (partial_folder(tmp_path, 3) / "rank-7.safetensors").write_text("stale")
    assert not (save(tmp_path, 3) / "rank-7.safetensors").exists()


def test_a_run_folder_that_was_deleted_is_not_made_again_by_a_save(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        partial_folder(tmp_path / "deleted" / "checkpoints", 3)


def test_saving_a_step_again_moves_the_one_before_out_of_the_way(tmp_path: Path) -> None:
    save(tmp_path, 5)
    folder = save(tmp_path, 5)
    assert complete_checkpoints(tmp_path) == [folder]
    assert read_state(tmp_path / "earlier" / "step-000005.1")["weight_version"] == 5


def test_going_another_way_moves_the_runs_own_later_checkpoints_and_no_others(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for version in (1, 2, 3):
        save(own, version)
        save(other, version)
    for _ in range(2):
        abandon_later(own / "step-000001", own)
        save(own, 2)
    assert [path.name for path in complete_checkpoints(own)] == ["step-000001", "step-000002"]
    kept = {path.name for path in (own / "earlier").iterdir()}
    assert kept == {"step-000002.1", "step-000002.2", "step-000003.1"}
    assert len(complete_checkpoints(other)) == 3


@pytest.mark.parametrize("begins_with", ["the model folder", "another run"])
def test_a_run_that_goes_on_from_none_of_its_own_checkpoints_keeps_none_of_them(
    tmp_path: Path, begins_with: str
) -> None:
    save(tmp_path / "own", 3)
    other = save(tmp_path / "other", 1)
    abandon_later(other if begins_with == "another run" else None, tmp_path / "own")
    assert complete_checkpoints(tmp_path / "own") == []
    assert complete_checkpoints(tmp_path / "other") == [other]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (flip, "is damaged"),
    "cut short": (lambda path: os.truncate(path, path.stat().st_size - 1), "has .* bytes of|is damaged"),
    "empty": (lambda path: os.truncate(path, 0), "has 0 bytes of|is damaged: it is no manifest"),
    "missing": (lambda path: path.unlink(), "is missing"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "has .* bytes of|cannot be read"),
}
FILES = ("rank-0.safetensors", "rank-1.safetensors", STATE_FILE, MANIFEST_FILE)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(tmp_path: Path, damage: str, name: str) -> None:
    sound, damaged = save(tmp_path, 1), save(tmp_path, 2)
    act, message = DAMAGES[damage]
    act(damaged / name)
    found, damages = newest_sound(tmp_path)
    assert found == sound
    (said,) = damages
    assert f"step-000002/{name} " in said
    with pytest.raises(
        CheckpointError,
        match=rf"step-000002/{name} ({message}).*resume=.*step-000001 is the newest sound one beside it",
    ):
        check_named(damaged)


def test_of_damaged_ones_alone_none_is_taken(tmp_path: Path) -> None:
    for version in (1, 2):
        flip(save(tmp_path, version) / "rank-1.safetensors")
    found, damages = newest_sound(tmp_path)
    assert found is None
    assert [said.split("/")[-2] for said in damages] == ["step-000002", "step-000001"]


def test_a_folder_without_a_state_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        read_state(tmp_path)


STATES = {
    "": "is damaged",
    "{": "is damaged",
    "[" * 100_000: "is damaged",
    "7": "format None",
    "{}": f"format 1, this version of sdft_ray reads format {FORMAT}",
    f'{{"format": {FORMAT + 1}}}': f"format {FORMAT + 1}",
    f'{{"format": {FORMAT}}}': "has weight_version=None",
    json.dumps({"format": FORMAT, "weight_version": "2", **STATE}): "has weight_version=2",
    json.dumps({"format": FORMAT, "weight_version": True, **STATE}): "has weight_version=True",
    json.dumps({"format": FORMAT, "weight_version": 2, **STATE, "data": []}): r"has data=\[\]",
}


@pytest.mark.parametrize("content", STATES, ids=lambda content: content[:40])
def test_a_state_that_is_not_what_this_code_writes_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / STATE_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=STATES[content]):
        read_state(tmp_path)


def test_what_differs_of_the_model_is_named(tmp_path: Path) -> None:
    saved = {"weights": "a", "config": {"hidden_size": 64}, "num_tokens": 9, "vocabulary": "v"}
    state = {"weight_version": 2, "model": saved}
    check_state(tmp_path, state, num_steps=4, model=saved)
    with pytest.raises(CheckpointError, match="hidden_size is 128 and was 64; its files hold other weights"):
        check_state(tmp_path, state, num_steps=4, model=saved | {"weights": "b", "config": {"hidden_size": 128}})
    with pytest.raises(CheckpointError, match="the vocabulary has 10 entries and had 9"):
        check_state(tmp_path, state, num_steps=4, model=saved | {"num_tokens": 10, "vocabulary": "w"})
    with pytest.raises(CheckpointError, match="as many entries, but others"):
        check_state(tmp_path, state, num_steps=4, model=saved | {"vocabulary": "w"})


@pytest.mark.parametrize("cuts", [(0, 4), (0, 2, 4), (0, 1, 3, 4)])
def test_ranks_of_another_number_read_their_parts(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    folder = save(tmp_path, 1)
    whole, moments = [], []
    for rank, (start, end) in enumerate(zip(cuts, cuts[1:], strict=False)):
        engine = FakeEngine(start=start, values=(0.0,) * (end - start))
        load_rank(folder, engine, None, rank)
        whole += engine.values.tolist()
        moments += engine.moments.tolist()
        assert engine.updates == {"p": 7.0}
    assert whole == [1.0, 2.0, 3.0, 4.0] and moments == [2.0, 4.0, 6.0, 8.0]


def test_a_part_that_no_file_holds_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / "rank-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds student of p up to element 3, and not up to 4"):
        load_rank(folder, FakeEngine(), None, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["student", "exp_avg", "average"])
def test_what_is_nan_or_infinite_is_refused_by_its_file_before_a_step_spreads_it(
    tmp_path: Path, kind: str, bad: float
) -> None:
    engine = FakeEngine()
    average = TeacherAverage([Fragment("p", 0, engine.values)], 0.99)
    next(values for _, _, values in average.fragments())[2] = bad if kind == "average" else 1.0
    {"student": engine.values, "exp_avg": engine.moments}.get(kind, torch.zeros(4))[2] = bad
    written = write_rank(tmp_path, 0, rank_pieces(engine, average, 0), rank_metadata(engine))
    assert isinstance(written, SavedFile)
    message = f"{tmp_path}/rank-0.safetensors holds NaN or infinite values, in {kind} of p, .*resume=PATH"
    with pytest.raises(CheckpointError, match=message):
        load_rank(tmp_path, FakeEngine(), TeacherAverage([Fragment("p", 0, torch.zeros(4))], 0.99), 0)


def test_the_random_state_of_a_rank_is_restored(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        save_rank(tmp_path, FakeEngine())
        expected = torch.rand(4)
        torch.manual_seed(4)
        load_rank(tmp_path, FakeEngine(), None, 0)
        assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_resumed_network_has_the_saved_buffers(tmp_path: Path, family: str) -> None:
    saved, resumed = make_buffered(family), make_buffered(family, seed=1)
    save_rank(tmp_path, FakeEngine(saved))
    load_rank(tmp_path, FakeEngine(resumed), None, rank=0)
    for name, buffer in saved_buffers(saved).items():
        assert torch.equal(saved_buffers(resumed)[name], buffer)
        assert saved_buffers(resumed)[name].dtype == buffer.dtype


def test_a_checkpoint_of_a_network_with_other_buffers_is_refused_by_their_names(tmp_path: Path) -> None:
    save_rank(tmp_path, FakeEngine(make_buffered("gemma4_text")))
    with pytest.raises(CheckpointError, match=r"layers\.0\.layer_scalar.*e_score_correction_bias"):
        load_rank(tmp_path, FakeEngine(make_buffered("deepseek_v3")), None, rank=0)


def test_a_checkpoint_of_a_network_with_other_shapes_is_refused_by_their_names(tmp_path: Path) -> None:
    class Wider(FakeEngine):
        def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
            return (("p", (2, 3)), ("q", (1,)))

    save_rank(tmp_path, FakeEngine())
    with pytest.raises(CheckpointError, match=r"p is \(2, 3\) and was \(2, 2\); q is \(1,\) and was missing"):
        load_rank(tmp_path, Wider(), None, rank=0)


def test_an_average_is_cut_anew_as_the_weights_are(tmp_path: Path) -> None:
    for rank, (start, values) in enumerate([(0, [1.0, 2.0, 3.0]), (3, [4.0])]):
        average = TeacherAverage([Fragment("p", start, torch.tensor(values))], 0.9)
        save_rank(tmp_path, FakeEngine(start=start, values=tuple(values)), average, rank)
    resumed = TeacherAverage([Fragment("p", 1, torch.zeros(3))], 0.9)
    load_rank(tmp_path, FakeEngine(), resumed, rank=0)
    assert [values.tolist() for _, _, values in resumed.fragments()] == [[2.0, 3.0, 4.0]]
    with pytest.raises(CheckpointError, match="saved with a moving average"):
        load_rank(tmp_path, FakeEngine(), None, rank=0)


def test_a_disk_that_is_full_ends_no_rank(tmp_path: Path) -> None:
    why = write_rank(tmp_path / "gone", 0, rank_pieces(FakeEngine(), None, 0), {})
    assert why == f"No such file or directory: {tmp_path}/gone/rank-0.safetensors"


def test_whatever_bytes_a_checkpoint_has_it_is_refused_or_resumed_rightly(tmp_path: Path) -> None:
    """Four hundred damages drawn with a seed: bits, cuts, additions, zeroes and rubbish anywhere in any file."""
    generator = random.Random(0)
    sound, num_refused = save(tmp_path, 1), 0
    contents = {name: (sound / name).read_bytes() for name in FILES}
    for _ in range(400):
        folder = tmp_path / "step-000002"
        shutil.copytree(sound, folder)
        name = generator.choice(FILES)
        (folder / name).write_bytes(damaged(contents[name], generator))
        changed = (folder / name).read_bytes() != contents[name]
        found, damages = newest_sound(tmp_path)
        assert (found == sound) == changed == bool(damages), name
        num_refused += changed
        for read in (read_state, partial(load_rank, engine=FakeEngine(), average=None, rank=0)):
            with suppress(CheckpointError):  # also without the manifest no other error, which would have no remedy
                read(folder)
        shutil.rmtree(folder)
    assert num_refused > 350


def damaged(content: bytes, generator: Any) -> bytes:
    """Other bytes, most of the time."""
    place = generator.randrange(len(content))
    rubbish = generator.randbytes(generator.randrange(1, 64))
    return generator.choice(
        [
            content[:place],
            content[:place] + bytes([content[place] ^ (1 << generator.randrange(8))]) + content[place + 1 :],
            content + rubbish,
            content[:place] + rubbish + content[place + len(rubbish) :],
            content[:place] + b"\0" * len(rubbish) + content[place + len(rubbish) :],
            b"\0" * len(content),
            rubbish,
        ]
    )


def test_a_checkpoint_of_another_adapter_is_refused_by_the_settings_that_differ(tmp_path: Path) -> None:
    adapter = AdapterConfig(kind=AdapterKind.LORA, rank=4)
    state = {"adapter": adapter_facts(adapter)}
    check_adapter_facts(tmp_path, state, adapter_facts(adapter))
    check_adapter_facts(tmp_path, {}, adapter_facts(AdapterConfig()))
    for other, said in (
        (replace(adapter, alpha=4.0), "model.adapter.alpha is 4.0 and was 16.0"),
        (replace(adapter, targets=["q_proj"]), r"model.adapter.targets is \['q_proj'\] and was \[\]"),
        (AdapterConfig(), "model.adapter.kind is NONE and was LORA"),
    ):
        with pytest.raises(CheckpointError, match=said):
            check_adapter_facts(tmp_path, state, adapter_facts(other))
    with pytest.raises(CheckpointError, match="model.adapter.kind is LORA and was NONE"):
        check_adapter_facts(tmp_path, {}, adapter_facts(adapter))
