"""The least a step can take: the floating point operations of its phases at the rate of a plain matrix product.

Legend: P tokens of a student prompt, P' of its teacher prompt, T of the completion. Counted are sampling (prompt and
decoding), the teacher's forward pass, the student's forward and backward pass, and the heads of both on completion
rows only; the teacher's head is multiplied in the learner. Attention counts what causality lets a token see.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch

from sdft_ray.learner.roofline import measure_matmul
from sdft_ray.models.arithmetic import NetworkShape, forward_flops, training_flops


class Lengths(NamedTuple):
    """Of one sample."""

    prompt: int  # P
    teacher_prompt: int  # P'
    completion: int  # T


def phase_flops(shape: NetworkShape, samples: Iterable[Lengths]) -> dict[str, float]:
    """Operations of one step's `rollout`, `score` and `forward_backward`."""
    totals = dict.fromkeys(("rollout", "score", "forward_backward"), 0.0)
    for sample in samples:
        rows = sample.completion
        student, teacher = sample.prompt + rows - 1, sample.teacher_prompt + rows - 1
        totals["rollout"] += forward_flops(shape, sample.prompt, context=(sample.prompt + 1) / 2, head_rows=1)
        totals["rollout"] += forward_flops(shape, rows - 1, context=sample.prompt + rows / 2, head_rows=rows - 1)
        totals["score"] += forward_flops(shape, teacher, context=(teacher + 1) / 2, head_rows=0)
        totals["forward_backward"] += training_flops(shape, student, context=(student + 1) / 2, head_rows=rows)
        totals["forward_backward"] += 2 * rows * shape.head_parameters
    return totals


def matmul_rate(num_threads: int) -> float:
    """FLOP/s of fp32 matrix products on this machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        return max(measure_matmul(torch.device("cpu"), torch.float32) for _ in range(3))
    finally:
        torch.set_num_threads(before)
