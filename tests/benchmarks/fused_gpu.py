"""The fused divergence on a GPU, in the size of Qwen2.5-7B: hidden size 3584, 152,064 vocabulary rows, heads in bf16.

KL(student || teacher) with the gradients on hidden states and head, as above; the median of ten runs after two. Memory
is the peak of torch's allocator beyond the inputs and the gradients that are asked for. The differences are those from
the plain one in fp32, of the loss and of the largest element of each gradient, where that one fits.
"""

import gc
import json
import time
from collections.abc import Sequence
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sdft_ray.tensors import synchronize
from tests.benchmarks.fused_case import IMPLEMENTATIONS, MIB, Place, make_sides

NUM_VOCAB = 152_064
NUM_TOKENS = (1024, 2048, 8192)
HIDDEN_SIZE = 3584
WARM_UP, REPEATS = 2, 10
OTHERS = {"TRL": "trl", "Liger": "liger_kernel"}
COLUMNS = (
    "tokens",
    "which",
    "time_ms",
    "memory_mib",
    "time_ratio",
    "memory_ratio",
    "loss_difference",
    "gradient_difference",
)


def measure() -> dict[str, Any]:
    """Runs every case on this process's GPU; without one there is nothing to measure."""
    if not torch.cuda.is_available():
        return {"fused_gpu_raw": {"notes": ["This machine has no GPU."]}}
    return {"fused_gpu_raw": {"tables": {"": compare()}, "notes": [torch.cuda.get_device_name()]}}


def compare(
    num_vocab: int = NUM_VOCAB,
    hidden_size: int = HIDDEN_SIZE,
    cases: Sequence[int] = NUM_TOKENS,
    device: str = "cuda",
    dtype: torch.dtype = torch.bfloat16,
) -> list[dict[str, Any]]:
    """A row for each number of tokens and each implementation there is; on a CPU without its memory."""
    names = ["fused", "unfused", *(name for name, package in OTHERS.items() if find_spec(package))]
    place = Place(device, dtype, hidden_size)
    rows = []
    for num_tokens in cases:
        loss, gradients = _reference(num_tokens, num_vocab, place)
        found = {name: _run(name, num_tokens, num_vocab, place, loss, gradients) for name in names}
        plain = found["unfused"]
        for name, own in found.items():
            row: dict[str, Any] = {"tokens": num_tokens, "which": name, **own}
            if own and plain:
                row["time_ratio"] = own["time_ms"] / plain["time_ms"]
                row["memory_ratio"] = own["memory_mib"] / plain["memory_mib"] if device == "cuda" else None
            rows.append(dict.fromkeys(COLUMNS) | row)
    return rows


def _reference(num_tokens: int, num_vocab: int, place: Place) -> tuple[float, list[Tensor]]:
    """Loss and gradients of the same numbers in fp32, by the fused divergence, which the CPU's table holds exact."""
    sides = make_sides(num_tokens, num_vocab, place)
    exact = sides._replace(
        hidden=sides.hidden.detach().float().requires_grad_(),
        weight=sides.weight.detach().float().requires_grad_(),
        teacher_hidden=sides.teacher_hidden.float(),
        teacher_weight=sides.teacher_weight.float(),
    )
    loss = IMPLEMENTATIONS["fused"](exact)
    loss.backward()
    return loss.item(), [exact.hidden.grad, exact.weight.grad]


def _run(
    name: str, num_tokens: int, num_vocab: int, place: Place, exact_loss: float, exact: list[Tensor]
) -> dict[str, float | None]:
    """The figures of one implementation; none where the GPU has too little memory for it."""
    on_gpu, device = place.device == "cuda", torch.device(place.device)
    try:
        sides = make_sides(num_tokens, num_vocab, place)
        inputs = [sides.hidden, sides.weight]
        seconds, peaks = [], []
        for _ in range(WARM_UP + REPEATS):
            for tensor in inputs:
                tensor.grad = None
            synchronize(device)
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            before, started = torch.cuda.memory_allocated() if on_gpu else 0, time.perf_counter()
            loss = IMPLEMENTATIONS[name](sides)
            loss.backward()
            synchronize(device)
            seconds.append(time.perf_counter() - started)
            peaks.append(torch.cuda.max_memory_allocated() - before if on_gpu else 0)
        asked = sum(tensor.numel() * tensor.element_size() for tensor in inputs)
        differences = [
            ((tensor.grad.float() - other).abs().max() / other.abs().max()).item()
            for tensor, other in zip(inputs, exact, strict=True)
        ]
        return {
            "time_ms": 1000 * median(seconds[WARM_UP:]),
            "memory_mib": (max(peaks[WARM_UP:]) - asked) / MIB if on_gpu else None,
            "loss_difference": abs(loss.item() / exact_loss - 1),
            "gradient_difference": max(differences),
        }
    except torch.OutOfMemoryError:
        return {}
    finally:
        gc.collect()
        torch.cuda.empty_cache()  # nothing where no GPU was used


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
