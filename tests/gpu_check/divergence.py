"""The fused divergence in the size of Qwen2.5-7B beside the plain one, in bf16: `tests/benchmarks/fused_gpu.py`."""

from typing import Any

import torch

from tests.benchmarks import fused_gpu
from tests.gpu_check.checks import hold
from tests.gpu_check.parts import Place

# On a CPU, whose products in bf16 round what a GPU adds up in fp32.
SMALL: dict[str, Any] = {"num_vocab": 1000, "hidden_size": 64, "cases": (96,), "dtype": torch.float32}
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-2, 2e-2  # in bf16, from fp32


def measure(place: Place) -> dict[str, Any]:
    """Every implementation there is; only this project's has to be right."""
    rows = fused_gpu.compare(**SMALL if place.device == "cpu" else {}, device=place.device)
    for row in rows:
        if row["which"] == "fused":
            case = f"of {row['tokens']} tokens"
            assert row["time_ms"] is not None, f"the divergence {case} did not fit into the GPU's memory"
            hold(f"the loss {case}", row["loss_difference"], LOSS_TOLERANCE)
            hold(f"the gradient {case}", row["gradient_difference"], GRADIENT_TOLERANCE)
    notes = [(fused_gpu.__doc__ or "").replace("\n", " ").strip()] if place.device == "cuda" else []
    return {"tables": {"": rows}, "notes": notes}
