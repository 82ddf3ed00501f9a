"""The student as an ordinary Hugging Face folder: written, then loaded again and held against the student."""

import copy
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import GenerationConfig, PreTrainedModel

from sdft_ray.config import Precision
from sdft_ray.examples import GuardRow
from sdft_ray.learner.scoring import network_logits
from sdft_ray.models.folder import GENERATION_FILE, read_config
from sdft_ray.models.network import TORCH_DTYPE
from sdft_ray.records import Bucket
from sdft_ray.tensors import dtype_name
from sdft_ray.weights.buckets import unpack
from sdft_ray.weights.fragments import Fragment, Shapes, assembled

UNVERIFIED_FILE = "NOT_VERIFIED"  # lies in an exported folder until what it computes has been checked


def full_state(
    shapes: Shapes,
    fragments: Callable[[], Iterator[Fragment]],
    buffers: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """All of a network's state in host memory on rank 0, empty elsewhere; every rank has to call it.

    Args:
        shapes: of all parameters.
        fragments: of the parameters on this rank.
        buffers: that are saved with the network; they stay in their own dtype.
        dtype: the parameters' in the state.
        device: where ranks exchange fragments.
    """
    state: dict[str, torch.Tensor] = {}
    if dist.get_world_size() == 1 and dtype is torch.float32:  # the masters themselves, not copied
        state |= {name: values.view(dict(shapes)[name]).cpu() for name, _, values in fragments()}
    else:
        for entries, array in assembled(shapes, fragments(), dtype, device):
            state |= dict(unpack(Bucket(dtype=dtype_name(dtype), entries=entries, array=None), array))
    if dist.get_rank() == 0:
        state |= {name: buffer.cpu() for name, buffer in buffers.items()}
    return state


def export_student(
    network: PreTrainedModel, state: dict[str, torch.Tensor], folder: Path, source: Path, precision: Precision
) -> None:
    """Writes configuration, generation settings and weights; files are as readable as the user's umask allows.

    Args:
        network: the student, whose own tensors are not read.
        state: its parameters and saved buffers, whole.
        folder: where to; it holds `UNVERIFIED_FILE` afterwards.
        source: the model folder the run began with; its generation settings are kept as they are.
        precision: of the weights.
    """
    mark_unverified(folder)
    in_training = network.config, network.generation_config
    network.config = copy.deepcopy(network.config)
    network.config.dtype = TORCH_DTYPE[precision]
    network.config.use_cache = getattr(read_config(source), "use_cache", True)
    keeps_generation = (source / GENERATION_FILE).is_file()
    if keeps_generation:  # many a published one is refused by transformers when it is saved again
        network.generation_config = GenerationConfig()
    network.save_pretrained(folder, state_dict=state)
    network.config, network.generation_config = in_training
    if keeps_generation:
        shutil.copyfile(source / GENERATION_FILE, folder / GENERATION_FILE)
    make_readable(folder)


def export_gap(network: PreTrainedModel, rows: Sequence[GuardRow], expected: Sequence[torch.Tensor]) -> float:
    """The largest difference between the logits of an exported network and `expected`, over the latter's range.

    Args:
        network: loaded from the exported folder in host memory, in the precision it was exported in.
        rows: what it reads.
        expected: the student's logits [T, V] of every row.
    """
    logits = network_logits(network.eval(), rows, expected[0].shape[1])
    differences = [float((given - own).abs().max()) for given, own in zip(logits, expected, strict=True)]
    spans = [float(own.max() - own.min()) for own in expected]
    return max(differences) / max(spans)


def mark_unverified(folder: Path) -> None:
    """Makes the folder of an export, which does not count yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNVERIFIED_FILE).write_text("What this folder computes was not compared with the trained student.\n")


def make_readable(folder: Path) -> None:
    """Safetensors writes files that only their owner may read."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o666 & ~umask)
