"""Checkpoints: complete or absent, and read only once every file is what was written.

All ranks write their tensors (`fragment_files.py`) into a folder with the suffix `.partial`. The driver adds
`state.json` and the manifest (`manifest.py`), and renames the folder. Files, folder and name are on the disk by then: a
kill or a power cut at any moment leaves the checkpoint before it intact. All nodes have to see the run folder.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdft_ray.config import LearnerConfig
from sdft_ray.errors import CheckpointError
from sdft_ray.learner.fragment_files import FragmentReader, Piece, rank_file, write_pieces
from sdft_ray.learner.manifest import SavedFile, check_sound, sync_folder, write_file, write_manifest
from sdft_ray.models.identity import identity_differences
from sdft_ray.models.state import copy_buffers, saved_buffers
from sdft_ray.tracking.earlier import move_to_earlier

if TYPE_CHECKING:
    from sdft_ray.learner.adapter_average import AdapterAverage
    from sdft_ray.learner.engine import StudentEngine
    from sdft_ray.weights.fragments import TeacherAverage

    Average = TeacherAverage | AdapterAverage

STATE_FILE = "state.json"
PARTIAL, REMOVED = ".partial", ".removed"  # suffixes of what is no checkpoint yet, and of what is none any more
FORMAT = 2  # of the files; 1 held DeepSpeed's own, without checksums
AVERAGE, BUFFER, RANDOM = "average", "buffer", "random"  # kinds of pieces, besides the engine's
CPU, CUDA = "cpu", "cuda"  # names of random states, behind the rank
MAX_NAMED = 3  # differences of shapes in one message
# What the driver's part has to hold, so that a state of other code is refused and not half understood.
STATE_TYPES = {"weight_version": int, "data": dict, "layout": dict, "model": dict}
_COMPLETE = re.compile(r"step-(\d+)")


def checkpoint_folder(root: Path, version: int) -> Path:
    """Where the checkpoint of a weight version lies once it is complete."""
    return root / f"step-{version:06d}"


def partial_folder(root: Path, version: int) -> Path:
    """Where it is written, emptied of what a killed run may have left there.

    Raises:
        OSError: it cannot be made. The run folder is not made again where somebody has deleted it.
    """
    folder = checkpoint_folder(root, version).with_suffix(PARTIAL)
    shutil.rmtree(folder, ignore_errors=True)
    root.mkdir(exist_ok=True)
    folder.mkdir()
    return folder


def abandon_later(folder: Path | None, root: Path) -> None:
    """Moves a run's checkpoints beyond the one that it goes on from to earlier/, so that they no longer count.

    The run goes another way from here; resuming it must not find the end of the old one. The checkpoints of another
    run stay as they are.

    Args:
        folder: the checkpoint; None, or one of another run, leaves none of this run.
        root: the checkpoints of the run that goes on.
    """
    checkpoints = complete_checkpoints(root)
    first = checkpoints.index(folder) + 1 if folder in checkpoints else 0
    for later in checkpoints[first:]:
        move_to_earlier(later)


def complete(partial: Path, state: dict[str, Any], files: Sequence[SavedFile] = ()) -> Path:
    """Makes a written checkpoint count.

    Args:
        partial: the folder it was written to.
        state: the driver's part.
        files: what the ranks have written.

    Raises:
        OSError: it cannot be written.
    """
    own = write_file(partial / STATE_FILE, [json.dumps({"format": FORMAT, **state}, indent=2).encode()])
    write_manifest(partial, [*files, own])
    sync_folder(partial)
    folder = partial.with_suffix("")
    move_to_earlier(folder)
    partial.rename(folder)
    sync_folder(folder.parent)
    return folder


def prune(root: Path, keep: int, best: Path | None = None) -> None:
    """Removes all checkpoints but the newest `keep` and the best, as keep_checkpoints and keep_best order.

    Also what kills have left of writing and of removing. A checkpoint loses its name first, so none is there in part.

    Raises:
        OSError: something cannot be removed.
    """
    for old in complete_checkpoints(root)[:-keep]:
        if old != best:
            old.rename(old.with_suffix(REMOVED))
    for remains in [*root.glob(f"step-*{REMOVED}"), *root.glob(f"step-*{PARTIAL}")]:
        shutil.rmtree(remains)


def complete_checkpoints(root: Path) -> list[Path]:
    """All complete checkpoints, oldest first."""
    found = [(int(match[1]), path) for path in root.glob("step-*") if (match := _COMPLETE.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest_sound(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of which every file is what was written, and what is wrong with the newer ones."""
    damages: list[str] = []
    for folder in reversed(complete_checkpoints(root)):
        try:
            check_sound(folder)
            return folder, damages
        except CheckpointError as error:
            damages.append(str(error))
    return None, damages


def check_named(folder: Path) -> None:
    """Refuses a damaged checkpoint that was named, and names the sound ones beside it.

    Raises:
        CheckpointError: a file of it is missing, cut, or not what was written.
    """
    try:
        check_sound(folder)
    except CheckpointError as error:
        sound, _ = newest_sound(folder.parent)
        remedy = f"resume={sound} is the newest sound one beside it" if sound else "there is no sound one beside it"
        raise CheckpointError(f"resume={folder}: {error}; {remedy}.") from error


def read_state(folder: Path) -> dict[str, Any]:
    """The driver's part of a checkpoint.

    Raises:
        CheckpointError: `folder` is no complete checkpoint, or one of other code.
    """
    path = folder / STATE_FILE
    try:
        state = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"resume={folder}: no checkpoint lies there ({STATE_FILE} is missing); name a step-N folder."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"resume={folder}: {STATE_FILE} is damaged ({error}); name another step-N.") from error
    written = state.get("format", 1) if isinstance(state, dict) else None
    if written != FORMAT:
        raise CheckpointError(
            f"resume={folder}: its files are of format {written}, this version of sdft_ray reads format {FORMAT}; go "
            "on with the version that has written it, or train its exported model with model.path."
        )
    for key, kind in STATE_TYPES.items():
        if not isinstance(state.get(key), kind) or isinstance(state[key], bool):
            raise CheckpointError(f"resume={folder}: {STATE_FILE} has {key}={state.get(key)}; name another step-N.")
    return state


def layout(learner: LearnerConfig, num_ranks: int) -> dict[str, Any]:
    """How the ranks that save or resume a checkpoint cut the weights up."""
    return {"num_ranks": num_ranks, "zero_stage": learner.zero_stage, "precision": learner.precision.name}


def check_state(folder: Path, state: dict[str, Any], *, num_steps: int, model: dict[str, Any]) -> None:
    """Refuses a checkpoint from which this run cannot go on, by the driver's part of it.

    Args:
        folder: the checkpoint.
        state: from `read_state`.
        num_steps: of this run, all stages together.
        model: the identity of this run's model.path; {} asks for none.

    Raises:
        CheckpointError: it was saved of another model, or lies beyond the end of the run.
    """
    version = state["weight_version"]
    if version > num_steps:
        raise CheckpointError(
            f"resume={folder}: it was saved after step {version}, but the run ends at num_steps={num_steps}; "
            "raise num_steps, or resume an earlier checkpoint."
        )
    if model and (differences := identity_differences(state["model"], model)):
        raise CheckpointError(
            f"resume={folder}: its run began with another model than this model.path: {'; '.join(differences)}. Give "
            "the model.path it was started with, wherever that lies now, or begin a new run with resume=never."
        )


def check_adapter_facts(folder: Path, state: Mapping[str, Any], adapter: Mapping[str, Any]) -> None:
    """Refuses a checkpoint of another adapter than `adapter` describes, or of a whole network where that is on.

    Raises:
        CheckpointError: names the settings and what they were.
    """
    saved = state.get("adapter", {"kind": "NONE"})  # checkpoints that say nothing are of whole networks
    changed = [key for key in {**saved, **adapter} if saved.get(key) != adapter.get(key)]
    if changed:
        was = "; ".join(f"model.adapter.{key} is {adapter.get(key)} and was {saved.get(key)}" for key in changed)
        raise CheckpointError(
            f"resume={folder}: it holds what another adapter was trained to: {was}. Give the settings it was saved "
            "with, or begin a new run with resume=never."
        )


def rank_pieces(engine: "StudentEngine", average: "Average | None", rank: int) -> Iterator[Piece]:
    """One rank's part: masters and moments, the moving average, the random state; rank 0 has the buffers, too."""
    yield from engine.pieces()
    if average is not None:
        yield from (Piece(AVERAGE, name, start, values) for name, start, values in average.fragments())
    if rank == 0:
        yield from (Piece(BUFFER, name, 0, values) for name, values in saved_buffers(engine.student).items())
    yield Piece(RANDOM, f"{rank}/{CPU}", 0, torch.get_rng_state())
    if torch.cuda.is_available():
        yield Piece(RANDOM, f"{rank}/{CUDA}", 0, torch.cuda.get_rng_state())


def rank_metadata(engine: "StudentEngine") -> dict[str, Any]:
    """What a rank's file says of the tensors in it."""
    return {"shapes": engine.shapes(), "num_updates": engine.num_updates()}


def write_rank(folder: Path, rank: int, pieces: Iterable[Piece], metadata: Mapping[str, Any]) -> SavedFile | str:
    """Writes one rank's part; returns its file, or why it could not be written: a full disk ends no training."""
    try:
        return write_pieces(folder / rank_file(rank), pieces, metadata)
    except OSError as error:
        return f"{error.strerror or error}: {folder / rank_file(rank)}"


def load_rank(folder: Path, engine: "StudentEngine", average: "Average | None", rank: int) -> None:
    """Restores what `write_rank` wrote, on any number of ranks and in any ZeRO stage.

    A rank that the saved run did not have begins with the random state of its seed; only dropout draws from it.

    Raises:
        CheckpointError: the files are of another network or method.
    """
    with FragmentReader(folder) as reader:
        _check_shapes(folder, reader.metadata[0]["shapes"], engine)
        if reader.has(AVERAGE) != (average is not None):
            raise CheckpointError(
                f"resume={folder}: it was saved {'without' if average is not None else 'with'} a moving average; "
                "resume with the method and the teacher.weights it was saved with."
            )
        buffers = reader.whole(BUFFER)
        if buffers.keys() != saved_buffers(engine.student).keys():
            raise CheckpointError(
                f"resume={folder}: it was saved with the buffers {sorted(buffers)}, the network has "
                f"{sorted(saved_buffers(engine.student))}; resume with the model.path and the version of sdft_ray it "
                "was saved with."
            )
        engine.restore(reader.read, {name: n for rank in reader.metadata for name, n in rank["num_updates"].items()})
        copy_buffers(engine.student, buffers)
        if average is not None:
            average.restore(lambda name, start, size: reader.read(AVERAGE, name, start, size))
        random = reader.whole(RANDOM)
        if f"{rank}/{CPU}" in random:
            torch.set_rng_state(random[f"{rank}/{CPU}"])
        if f"{rank}/{CUDA}" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random[f"{rank}/{CUDA}"])


def _check_shapes(folder: Path, saved: list[Any], engine: "StudentEngine") -> None:
    before = {name: tuple(shape) for name, shape in saved}
    now = dict(engine.shapes())
    changed = [
        f"{name} is {now.get(name, 'missing')} and was {before.get(name, 'missing')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise CheckpointError(
            f"resume={folder}: the network has other parameters: {'; '.join(changed[:MAX_NAMED])}"
            f"{f'; and {len(changed) - MAX_NAMED} more' if len(changed) > MAX_NAMED else ''}. Give the model.path it "
            "was saved with."
        )
