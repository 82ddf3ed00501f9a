"""What a run says of itself before it begins: a line each, for the terminal and the log.

A module of its own, since it reads everything about a run and changes nothing.
"""

from collections.abc import Iterator, Sequence

from sdft_ray.cluster.run_folder import RunFolder
from sdft_ray.cluster.stages import Stages
from sdft_ray.config import RunConfig, Target


def introduction(stages: Stages, folder: RunFolder, differences: Sequence[str], dashboard: str) -> Iterator[str]:
    """The lines.

    Args:
        stages: of the run, with its settings and inputs.
        folder: of the run, opened.
        differences: between its settings and those of the checkpoint that it goes on from.
        dashboard: Ray's address for a browser; "" where there is none.
    """
    cfg, inputs = stages.shared
    yield f"{cfg.method.name}: {inputs.num_steps} steps of {cfg.batch_size} samples, {cfg.model.path} on {_where(cfg)}"
    if cfg.cluster.num_gpus:
        yield (
            f"precision      {cfg.model.dtype.name} in rollout and teacher workers, {cfg.learner.precision.name} "
            "in the learner, whose masters are FLOAT32"
        )
    for stage in stages:
        if stage.name:
            yield f"stage          {stage.name}: steps {stage.first_step + 1} to {stage.last_step}"
    if cfg.note:
        yield cfg.note
    yield from inputs.notes
    for damage in folder.damages:
        yield f"damaged        {damage}; its checkpoint is passed over"
    for difference in differences:
        yield f"resumed with   {difference}"
    yield f"run folder     {folder.path}"
    if folder.begins_again:
        yield "no checkpoint  beginning again at step 0; what was written before moves to earlier/"
    if dashboard:
        yield f"Ray dashboard  {dashboard}  (its token: ray get-auth-token)"


def _where(cfg: RunConfig) -> str:
    """The cluster, and what the student is to move towards."""
    target = f"target {cfg.method.target.name}"
    if cfg.method.target is Target.TEACHER:
        target = f"{cfg.loss.divergence.name} to a teacher with {cfg.teacher.weights.name} weights"
    return f"{cfg.cluster.name}, {target}"
