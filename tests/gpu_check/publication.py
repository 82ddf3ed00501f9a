"""Weights through shared memory, from a learner's device to a teacher's: every version whole, and its seconds."""

from typing import Any

import torch

from sdft_ray.config import Channel
from sdft_ray.models.network import TORCH_DTYPE
from sdft_ray.teacher.weights import copy_weights
from sdft_ray.tensors import synchronize
from sdft_ray.weights.channel import WeightKind, ends_of
from tests.gpu_check.checks import fastest_s, one_rank
from tests.gpu_check.parts import Place
from tests.weights.publications import weights_of

NUM_LAYERS = 32
SIZE = {"cuda": 4096, "cpu": 64}  # 0.5 billion weights on a GPU
NUM_VERSIONS = 3


def measure(place: Place) -> dict[str, Any]:
    """In both precisions."""
    with one_rank():
        return {"tables": {"": [_row(place.device, dtype) for dtype in TORCH_DTYPE.values()]}}


def _row(device: str, dtype: torch.dtype) -> dict[str, Any]:
    size = SIZE[device]
    layers = {f"layer{number}": torch.nn.Linear(size, size, bias=False, device=device) for number in range(NUM_LAYERS)}
    student = torch.nn.ModuleDict(layers).requires_grad_(False)
    teacher = {name: torch.zeros_like(value, dtype=dtype) for name, value in student.named_parameters()}
    sender = ends_of(Channel.SHARED_MEMORY).sender(weights_of(student, dtype, device=torch.device(device)))
    for version in range(1, NUM_VERSIONS + 1):
        for value in student.parameters():
            value.fill_(version)
        publication = sender.publish(WeightKind.STUDENT, version)
        assert publication is not None
        copy_weights(teacher, publication)
        synchronize(torch.device(device))
        wrong = [name for name, value in teacher.items() if not bool((value == version).all())]
        assert not wrong, f"publication {version} did not bring {wrong[0]} whole"
    return {
        "precision": str(dtype).removeprefix("torch."),
        "mib": sum(value.nbytes for value in teacher.values()) / 2**20,
        "publish_s": fastest_s(device, lambda: sender.publish(WeightKind.STUDENT, NUM_VERSIONS)),
        "load_s": fastest_s(device, lambda: copy_weights(teacher, publication)),
    }
