"""Where the metrics of a run go besides its own files, the terminal and Ray."""

from collections.abc import Callable, Mapping
from typing import Any

from sdft_ray.cluster.run_folder import RunFolder
from sdft_ray.config import RunConfig, Wandb
from sdft_ray.tracking.jsonl import Decode
from sdft_ray.tracking.tensorboard_sink import TensorBoardSink
from sdft_ray.tracking.tracker import Sink
from sdft_ray.tracking.wandb_sink import WandbSink


def other_sinks(
    cfg: RunConfig, settings: Mapping[str, Any], folder: RunFolder, decode: Decode, say: Callable[[str], None]
) -> list[Sink]:
    """Those that are asked for: wandb and TensorBoard.

    Args:
        cfg: of the run.
        settings: the same, resolved, as plain containers.
        folder: that it writes to.
        decode: token ids to text, special tokens included.
        say: prints a line.
    """
    sinks: list[Sink] = []
    if cfg.tracking.wandb is not Wandb.disabled:
        sinks.append(
            WandbSink(
                cfg.tracking,
                name=folder.path.name,
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
