"""What a run leaves when training has ended: the student as folders that others load, each read again and compared.

A module of its own, since an adapter leaves two of them: itself, and the model that it was merged into.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from sdft_ray.cluster.guards import check_export
from sdft_ray.cluster.run_folder import RunFolder
from sdft_ray.cluster.run_inputs import RunInputs
from sdft_ray.config import RunConfig
from sdft_ray.learner.group import LearnerGroup
from sdft_ray.tracking.earlier import move_to_earlier

Phase = Callable[[str], AbstractContextManager[None]]


async def export_student(
    learner: LearnerGroup,
    folder: RunFolder,
    cfg: RunConfig,
    inputs: RunInputs,
    phase: Phase,
    say: Callable[[str], None],
) -> None:
    """Writes model/, and merged/ where export.merged asks for it; what lay there before moves to earlier/.

    Raises:
        GuardError: a folder computes something else than the student.
    """
    await _export(learner, folder.model, cfg, inputs, phase, say, merged=False)
    if cfg.export.merged:
        await _export(learner, folder.merged, cfg, inputs, phase, say, merged=True)


async def _export(
    learner: LearnerGroup,
    folder: Path,
    cfg: RunConfig,
    inputs: RunInputs,
    phase: Phase,
    say: Callable[[str], None],
    *,
    merged: bool,
) -> None:
    move_to_earlier(folder)
    with phase(f"saving the {'merged ' if merged else ''}model"):
        await learner.export(folder, merged=merged)
        inputs.tokenizer.save_pretrained(folder)
    with phase(f"loading the saved {'merged ' if merged else ''}model again"):
        await check_export(learner, folder, inputs.guard_rows, cfg.learner.precision, say)
