"""Where the metrics of a run go besides its own files, the terminal and Ray."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdft_ray.cluster.run_folder import RunFolder
from sdft_ray.cluster.stages import Stages
from sdft_ray.config import RunConfig, Wandb
from sdft_ray.tracking.jsonl import Decode
from sdft_ray.tracking.tensorboard_sink import TensorBoardSink
from sdft_ray.tracking.tracker import Sink
from sdft_ray.tracking.wandb_sink import Labels, WandbSink


def other_sinks(
    stages: Stages, settings: Mapping[str, Any], folder: RunFolder, decode: Decode, say: Callable[[str], None]
) -> list[Sink]:
    """Those that are asked for: wandb and TensorBoard.

    Args:
        stages: of the run.
        settings: its configuration, resolved, as plain containers.
        folder: that it writes to.
        decode: token ids to text, special tokens included.
        say: prints a line.
    """
    sinks: list[Sink] = []
    cfg, _ = stages.shared
    if cfg.tracking.wandb is not Wandb.disabled:
        sinks.append(
            WandbSink(
                cfg.tracking,
                labels=labels(
                    cfg, folder.path.name, [stage.name for stage in stages], lambda step: stages.at(step).name
                ),
                run_dir=folder.path,
                settings=settings,
                decode=decode,
                resumed=folder.resumed is not None,
                say=say,
            )
        )
    if cfg.tracking.tensorboard:
        sinks.append(TensorBoardSink(folder.path, folder.resumed_step, say))
    return sinks


def labels(cfg: RunConfig, name: str, stages: Sequence[str], stage_of: Callable[[int], str]) -> Labels:
    """What wandb finds a run by: its seeds are one group, and method, seed and stages are tags."""
    group = cfg.tracking.wandb_group or name.removesuffix(f"-seed-{cfg.seed}")
    tags = (cfg.method.name, f"seed-{cfg.seed}", *filter(None, stages))
    return Labels(name=name, group=group, tags=tuple(dict.fromkeys(tags)), stage_of=stage_of)


def log_model(sinks: Sequence[Sink], folder: Path) -> None:
    """Hands the final student to those that take it."""
    for sink in sinks:
        if isinstance(sink, WandbSink):
            sink.log_model(folder)
