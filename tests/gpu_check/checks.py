"""What parts have in common: differences with their bounds, seconds, memory, and the rows that they compute on."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sdft_ray.distill.divergence import LossSettings
from sdft_ray.models.packing import pack_sequences
from sdft_ray.tensors import synchronize

SETTINGS = LossSettings(divergence="reverse_kl", jsd_beta=0.5, estimator="analytic", temperature=1.0, mismatch="none")
PREFIX = (0, 20, 21)  # of all prompts
SEQUENCES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((*PREFIX, 22, 23), (24, 25, 26)),
    ((*PREFIX, 30), (31, 2)),
    ((*PREFIX, 40, 41, 42, 43), (44, 45, 46, 47, 2)),
]
# Of the largest element, where a sum in this precision is held against one in fp64.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def off(found: Tensor, expected: Tensor) -> float:
    """The largest difference, over the largest element that is expected."""
    own, other = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((own - other).abs().max() / other.abs().max())


def hold(what: str, difference: float, most: float) -> float:
    """The difference, if it is no larger.

    Raises:
        AssertionError: it is larger, or NaN.
    """
    assert difference <= most, f"{what}: off by {difference:.3g}, where {most:g} is the most"
    return difference


def packed(
    device: str, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]] = SEQUENCES, *, share_prefix: bool = True
) -> dict[str, Tensor]:
    """What `Student.forward` takes besides the loss."""
    pack = pack_sequences(sequences, share_prefix=share_prefix)
    names = ("input_ids", "position_ids", "predictor_index")
    return {name: torch.from_numpy(getattr(pack, name)).to(device) for name in names}


def given(
    device: str, num_vocab: int, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]] = SEQUENCES
) -> dict[str, Any]:
    """What every loss takes besides both sides; each token has its share of the mean."""
    lengths = torch.tensor([len(completion) for _, completion in sequences])
    num_tokens = int(lengths.sum())
    return {
        "token_ids": torch.tensor([token for _, completion in sequences for token in completion]).to(device),
        "token_weights": torch.full((num_tokens,), 1.0 / num_tokens).to(device),
        "sequence_ids": torch.arange(len(sequences)).repeat_interleave(lengths).to(device),
        "sampler_logprobs": torch.zeros(num_tokens).to(device),
        "settings": SETTINGS,
        "num_vocab": num_vocab,
    }


def fastest_s(device: str, call: Callable[[], Any], *, repeats: int = 5) -> float:
    """Seconds of the fastest of some calls, after one that warms up."""
    fastest = math.inf
    for number in range(repeats + 1):
        synchronize(torch.device(device))
        started = time.perf_counter()
        call()
        synchronize(torch.device(device))
        if number:
            fastest = min(fastest, time.perf_counter() - started)
    return fastest


def peak_mib(device: str, call: Callable[[], Any]) -> float | None:
    """The most memory of a GPU that a call takes beyond what is held; None on a CPU, where it is not measured."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


@contextmanager
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
