"""Checkpoints: complete or absent.

A checkpoint is written into a folder with the suffix `.partial` by all ranks; the driver adds `state.json` and then
renames the folder, so a folder named `step-N` is whole by construction and a kill at any moment leaves the one before
it intact. All nodes have to see the run folder.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdft_ray.config import LearnerConfig
from sdft_ray.errors import CheckpointError
from sdft_ray.models.state import copy_buffers, saved_buffers
from sdft_ray.tracking.earlier import move_to_earlier

if TYPE_CHECKING:
    from sdft_ray.learner.engine import StudentEngine
    from sdft_ray.weights.fragments import TeacherAverage

STATE_FILE = "state.json"
_COMPLETE = re.compile(r"step-(\d+)")


def checkpoint_folder(root: Path, version: int) -> Path:
    """Where the checkpoint of a weight version lies once it is complete."""
    return root / f"step-{version:06d}"


def partial_folder(root: Path, version: int) -> Path:
    """Where it is written, emptied of what a killed run may have left there."""
    folder = checkpoint_folder(root, version).with_suffix(".partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def abandon_later(folder: Path, root: Path) -> None:
    """Moves a run's checkpoints beyond the resumed one to earlier/, so that they no longer count.

    The run goes another way from here; resuming it must not find the end of the old one. The checkpoints of another
    run stay as they are.

    Args:
        folder: the resumed checkpoint.
        root: the checkpoints of the run that goes on.
    """
    checkpoints = complete_checkpoints(root)
    if folder in checkpoints:
        for later in checkpoints[checkpoints.index(folder) + 1 :]:
            move_to_earlier(later)


def complete(partial: Path, state: dict[str, Any], keep: int) -> Path:
    """Makes a written checkpoint count, then removes all but the newest `keep`, as keep_checkpoints orders."""
    root = partial.parent
    with (partial / STATE_FILE).open("w") as file:
        json.dump(state, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    folder = partial.with_suffix("")
    move_to_earlier(folder)
    partial.rename(folder)
    for old in complete_checkpoints(root)[:-keep]:
        shutil.rmtree(old)
    return folder


def complete_checkpoints(root: Path) -> list[Path]:
    """All complete checkpoints, oldest first."""
    found = [(int(match[1]), path) for path in root.glob("step-*") if (match := _COMPLETE.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def read_state(folder: Path) -> dict[str, Any]:
    """The driver's part of a checkpoint.

    Raises:
        CheckpointError: `folder` is no complete checkpoint.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise CheckpointError(
            f"resume={folder}: no checkpoint lies there ({STATE_FILE} is missing); name a step-N folder."
        )
    state: dict[str, Any] = json.loads(path.read_text())
    return state


def layout(learner: LearnerConfig, num_ranks: int) -> dict[str, Any]:
    """What the files of a checkpoint depend on."""
    return {"num_ranks": num_ranks, "zero_stage": learner.zero_stage, "precision": learner.precision.name}


def check_state(folder: Path, state: dict[str, Any], *, layout: dict[str, Any], num_steps: int, model: str) -> None:
    """Refuses a checkpoint from which this run cannot go on, by the driver's part of it.

    Args:
        folder: the checkpoint.
        state: from `read_state`.
        layout: of this run.
        num_steps: of this run, all stages together.
        model: the fingerprint of this run's model.path.

    Raises:
        CheckpointError: it was saved with another layout or of another model, or lies beyond the end of the run.
    """
    if state["layout"] != layout:
        raise CheckpointError(
            f"resume={folder}: saved with {state['layout']}, this run has {layout}; use the same "
            "cluster.learner.num_workers, learner.zero_stage and learner.precision."
        )
    version = state["weight_version"]
    if version > num_steps:
        raise CheckpointError(
            f"resume={folder}: it was saved after step {version}, but the run ends at num_steps={num_steps}; "
            "raise num_steps, or resume an earlier checkpoint."
        )
    if state.get("model", model) != model:  # which checkpoints of earlier versions do not tell
        raise CheckpointError(
            f"resume={folder}: its run began with another model than this model.path; give the model.path it was "
            "started with, wherever that lies now, or begin a new run with resume=never."
        )


def save_rank(folder: Path, engine: "StudentEngine", average: "TeacherAverage | None", rank: int) -> None:
    """Writes one rank's part: the engine's own files, the moving average, the network's buffers, the random state."""
    engine.save(str(folder))
    own = {
        "average": average.state_dict() if average is not None else None,
        "buffers": saved_buffers(engine.student),
        "random": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        own["random_cuda"] = torch.cuda.get_rng_state()
    torch.save(own, folder / f"rank-{rank}.pt")


def load_rank(folder: Path, engine: "StudentEngine", average: "TeacherAverage | None", rank: int) -> None:
    """Restores what `save_rank` wrote.

    Raises:
        CheckpointError: the files are missing or belong to another layout.
    """
    own_path = folder / f"rank-{rank}.pt"
    if not engine.load(str(folder)) or not own_path.is_file():
        raise CheckpointError(
            f"resume={folder}: the files of learner rank {rank} are missing; choose another checkpoint."
        )
    # Into host memory, from which it is copied: on a GPU it would be a second average beside the one that is there.
    own = torch.load(own_path, map_location="cpu", weights_only=True)
    if (own["average"] is None) != (average is None):
        raise CheckpointError(
            f"resume={folder}: it was saved {'without' if average is not None else 'with'} a moving average; "
            "resume with the method and the teacher.weights it was saved with."
        )
    if own.get("buffers", {}).keys() != saved_buffers(engine.student).keys():
        raise CheckpointError(
            f"resume={folder}: it was saved with the buffers {sorted(own.get('buffers', {}))}, the network has "
            f"{sorted(saved_buffers(engine.student))}; resume with the model.path and the version of sdft_ray it was "
            "saved with."
        )
    copy_buffers(engine.student, own.get("buffers", {}))
    if average is not None:
        average.load_state_dict(own["average"])
    torch.set_rng_state(own["random"])
    if "random_cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["random_cuda"])
