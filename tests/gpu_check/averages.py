"""The teacher's moving average where the learner computes and in host memory, and that of an adapter."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sdft_ray.config import AdapterConfig, AdapterKind
from sdft_ray.learner.adapter_average import AdapterAverage
from sdft_ray.models.adapter import averaged, factor_pairs
from sdft_ray.models.state import A, B
from sdft_ray.tensors import moved
from sdft_ray.weights.fragments import Fragment, TeacherAverage
from tests.gpu_check.checks import fastest_s, hold, off, one_rank
from tests.gpu_check.parts import Place

ELEMENTS = {"cuda": 2**28, "cpu": 2**16}
DECAY, NUM_STEPS = 0.95, 40
TOLERANCE = 1e-6  # of fp32, after that many roundings
ADAPTER = AdapterConfig(kind=AdapterKind.LORA, rank=8)
OUT = IN = 256
ADAPTER_TOLERANCE = 0.01  # what is cut off besides: docs/adapters.md has 0.002 as the largest of a real run


def measure(place: Place) -> dict[str, Any]:
    """All three, each against the same sum in fp64."""
    rows = [_whole(place.device, "device"), _whole(place.device, "host")]
    with one_rank():
        rows.append(_adapter(place.device))
    return {"tables": {"": rows}, "notes": [f"After {NUM_STEPS} steps with ema_decay={DECAY}, relative."]}


def _whole(device: str, where: str) -> dict[str, Any]:
    student = torch.empty(ELEMENTS[device], device=device)
    part = slice(0, 1000)
    average = TeacherAverage([Fragment("p", 0, student.fill_(1.0))], DECAY)
    if where == "host":  # as with learner.offload, whose masters are there as well
        student = moved(student, torch.device("cpu"))
        average.move(lambda owned: [each._replace(values=moved(each.values, torch.device("cpu"))) for each in owned])
    exact = torch.ones(1000, dtype=torch.float64)
    for step in range(NUM_STEPS):
        student[part] = torch.linspace(-1, 1, 1000).to(student.device) * step
        average.update([Fragment("p", 0, student)])
        exact = DECAY * exact + (1 - DECAY) * student[part].cpu().double()
    ((_, _, values),) = average.fragments()
    return {
        "average": f"all weights, on the {where}",
        "elements": len(student),
        "difference": hold(f"the average on the {where}", off(values[part], exact), TOLERANCE),
        "step_s": fastest_s(device, lambda: average.update([Fragment("p", 0, student)]), repeats=3),
    }


def _adapter(device: str) -> dict[str, Any]:
    steps = _trajectory(device)
    shapes = (("q_proj" + A, (ADAPTER.rank, IN)), ("q_proj" + B, (OUT, ADAPTER.rank)))
    first, second = next(steps)
    average = AdapterAverage(
        shapes, averaged(ADAPTER), _fragments(first, second), DECAY, torch.device(device), rank=0, num_ranks=1
    )
    exact = (second @ first).cpu().double()
    for first, second in steps:
        average.update(_fragments(first, second))
        exact = DECAY * exact + (1 - DECAY) * (second @ first).cpu().double()
    named = {name: values.view(dict(average.shapes)[name]) for name, _, values in average.fragments()}
    ((own_first, own_second),) = factor_pairs(named.items()).values()
    own = (own_second @ own_first).cpu().double()
    return {
        "average": "an adapter, of one target",
        "elements": sum(value.numel() for value in named.values()),
        "difference": hold("an adapter's average", float((own - exact).norm() / exact.norm()), ADAPTER_TOLERANCE),
        "step_s": fastest_s(device, lambda: average.update(_fragments(first, second)), repeats=3),
    }


def _trajectory(device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """A and B as AdamW moves them: A from what was drawn, B from zero, in steps that keep most of their direction."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(ADAPTER.rank, IN, generator=generator) / IN**0.5, torch.zeros(OUT, ADAPTER.rank)
    moves = [torch.randn(factor.shape, generator=generator) for factor in (first, second)]
    for _ in range(NUM_STEPS + 1):
        yield first.to(device), second.to(device)
        moves = [0.9 * move + 0.4 * torch.randn(move.shape, generator=generator) for move in moves]
        first, second = first + 0.001 * moves[0].sign(), second + 0.001 * moves[1].sign()


def _fragments(first: Tensor, second: Tensor) -> list[Fragment]:
    return [Fragment("q_proj" + A, 0, first.reshape(-1)), Fragment("q_proj" + B, 0, second.reshape(-1))]
