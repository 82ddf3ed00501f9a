"""An engine that sleeps and wakes: its logprobs before and behind, with the folder's weights and with new ones."""

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import torch

from sdft_ray.cluster.environment import actor_environment
from sdft_ray.config import Precision, RolePlacement
from sdft_ray.models.network import TORCH_DTYPE
from sdft_ray.tensors import synchronize
from tests.cluster.student import TrainedStudent
from tests.gpu_check.checks import SEQUENCES, hold
from tests.gpu_check.parts import Place
from tests.tiny import make_tiny_model
from tests.weights.publications import publish

if TYPE_CHECKING:
    from sdft_ray.rollout.engine import SamplingEngine

# |logprob of the engine - of plain transformers in fp32| of any token [nats]: as tests/gpu/test_run.py has it.
MISMATCH = {Precision.FLOAT32: 0.02, Precision.BFLOAT16: 1.0}
UNCHANGED = {
    Precision.FLOAT32: 1e-3,
    Precision.BFLOAT16: 0.05,
}  # of one engine with the same weights, before and behind
CHANGED = 2.0  # nats, at least, by which other weights move a logprob here


def measure(place: Place) -> dict[str, Any]:
    """In both precisions."""
    os.environ.update(actor_environment("rollout", RolePlacement(gpus_per_worker=0.5 * (place.device == "cuda"))))
    folder = make_tiny_model(place.scratch / "tiny-wide", hidden=256)
    return {"tables": {"": [asyncio.run(_row(folder, precision, place)) for precision in TORCH_DTYPE]}}


async def _row(folder: str, precision: Precision, place: Place) -> dict[str, Any]:
    from tests.gpu.engine import started_engine

    student = TrainedStudent(folder)
    row: dict[str, Any] = {"precision": precision.name}
    async with started_engine(folder, place.scratch, precision, sleeps=True) as engine:
        first = _expected(student)
        row["first_weights"] = hold("before a sleep", _gap(await _logprobs(engine), first), MISMATCH[precision])
        row |= await _sleep(engine, precision, place.device)
        version = student.train()
        assert _gap(_expected(student), first) > CHANGED, "the new weights are hardly others"
        parameters = {name: value.detach().to(TORCH_DTYPE[precision]) for name, value in _named(student)}
        await engine.pause()
        await engine.load_weights(publish(version, parameters))
        await engine.resume()
        row["new_weights"] = hold(
            "after a load", _gap(await _logprobs(engine), _expected(student)), MISMATCH[precision]
        )
        await _sleep(engine, precision, place.device)
        row["new_weights_awake"] = hold(
            "behind the wake with new weights", _gap(await _logprobs(engine), _expected(student)), MISMATCH[precision]
        )
    return row


async def _sleep(engine: "SamplingEngine", precision: Precision, device: str) -> dict[str, Any]:
    """Seconds to fall asleep and to wake, and the GPU memory given back meanwhile; logprobs have to be as before."""
    before, free = await _logprobs(engine), _free_gib(device)
    started = time.perf_counter()
    await engine.sleep()
    asleep = time.perf_counter()
    given_back = None if free is None else (_free_gib(device) or 0.0) - free
    waking = time.perf_counter()
    await engine.wake()
    awake = time.perf_counter()
    gap = hold("behind the wake", _gap(await _logprobs(engine), before), UNCHANGED[precision])
    return {"sleep_s": asleep - started, "wake_s": awake - waking, "given_back_gib": given_back, "awake": gap}


def _free_gib(device: str) -> float | None:
    """GPU memory that nobody holds."""
    if device == "cpu":
        return None
    synchronize(torch.device(device))
    return torch.cuda.mem_get_info()[0] / 2**30


async def _logprobs(engine: "SamplingEngine") -> list[float]:
    """Of all completion tokens [nats]."""
    return [value for prompt, completion in SEQUENCES for value in (await engine.logprobs(prompt, completion))[0]]


@torch.no_grad()
def _expected(student: TrainedStudent) -> list[float]:
    found = []
    for prompt, completion in SEQUENCES:
        logits = student.network(torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0, len(prompt) - 1 :]
        logprobs = torch.log_softmax(logits, dim=-1)
        found += [float(logprobs[position, token]) for position, token in enumerate(completion)]
    return found


def _named(student: TrainedStudent) -> Any:
    return student.network.named_parameters()


def _gap(found: list[float], expected: list[float]) -> float:
    return max(abs(own - other) for own, other in zip(found, expected, strict=True))
