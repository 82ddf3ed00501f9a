"""What a learner rank puts away and takes back, with an engine that notes what it is asked."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sdft_ray.learner import sleeping
from sdft_ray.learner.sleeping import SleepingMemory
from sdft_ray.weights.fragments import Fragment, TeacherAverage

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class FakeEngine:
    """Notes the order of its calls."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def offload(self) -> Callable[[], None]:
        self.told.append("offload")
        return lambda: self.told.append("reload")

    def release(self) -> None:
        self.told.append("release")


def average() -> TeacherAverage:
    return TeacherAverage([Fragment("weight", 0, torch.ones(3))], 0.9)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Elements of what has moved, and whereto; nothing does on a machine without a GPU."""
    moves: list[tuple[int, str]] = []

    def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        moves.append((tensor.numel(), device.type))
        return tensor

    monkeypatch.setattr(sleeping, "moved", move)
    return moves


def test_on_a_gpu_states_and_average_leave_and_come_back_once(moved: Any) -> None:
    engine = FakeEngine()
    memory = SleepingMemory(engine, average(), [], [], GPU)
    memory.take_back()  # as a rank that has just started
    assert engine.told == []
    memory.put_away()
    assert (engine.told, moved) == (["offload"], [(3, "cpu")])
    memory.take_back()
    memory.take_back()
    assert engine.told == ["offload", "reload"]


def test_an_average_that_is_kept_in_host_memory_stays_there(moved: Any) -> None:
    """As with learner.offload: it is where it was made, beside the masters."""
    memory = SleepingMemory(FakeEngine(), average(), [], [], GPU)
    memory.put_away()
    memory.take_back()
    assert moved == [(3, "cpu"), (3, "cpu")]


def test_on_a_cpu_only_what_holds_nothing_between_steps_is_given_back(moved: Any) -> None:
    engine = FakeEngine()
    memory = SleepingMemory(engine, average(), [engine], [], CPU)
    memory.put_away()
    memory.take_back()
    assert (engine.told, moved) == (["release"], [])


def test_what_lies_beneath_an_adapter_leaves_and_comes_back_though_no_optimizer_knows_it(moved: Any) -> None:
    memory = SleepingMemory(FakeEngine(), None, [], [nn.Parameter(torch.ones(5), requires_grad=False)], GPU)
    memory.put_away()
    memory.take_back()
    assert moved == [(5, "cpu"), (5, "cuda")]
