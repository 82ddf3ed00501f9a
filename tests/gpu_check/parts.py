"""The parts of `make gpu-check`, in the order of the page, and why one of them cannot be run here."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

TORCH = ("torch", "transformers")
TESTS = (*TORCH, "pytest")
ENGINE = (*TORCH, "vllm")
RUN = (*ENGINE, "deepspeed", "ray")


class Place(NamedTuple):
    """Where a part is measured."""

    device: str  # "cuda" or "cpu"
    scratch: Path  # of this check alone; parts find each other's runs in it


class Absent(Exception):
    """Something that a part needs is not here; the message says what."""


class Part(NamedTuple):
    """What has a process of its own: a file of tests, runs of the command, or `measure` in the module of its name."""

    title: str
    packages: tuple[str, ...] = TORCH  # without which it cannot be imported
    num_gpus: int = 1
    tests: str = ""  # a file in tests/gpu
    runs: tuple[str, ...] = ()  # keys of runs.RUNS; the first is what the others are seen beside
    limit_s: float = 1200.0

    @property
    def is_light(self) -> bool:
        """True when torch and transformers are enough: neither Ray nor vLLM nor DeepSpeed is imported."""
        return not set(self.packages) & {"deepspeed", "ray", "vllm"}


PARTS = {
    "test_attention": Part("packed attention", TESTS, tests="test_attention.py"),
    "test_divergence": Part("loss and gradients of every divergence", TESTS, tests="test_divergence.py"),
    "test_publication": Part("publications beside a busy optimizer", TESTS, tests="test_publication.py"),
    "divergence": Part("the fused divergence: value, gradient, time, memory"),
    "learner": Part("forward, backward and AdamW: numbers and speed"),
    "teacher": Part("a teacher: its payloads, new weights, asleep and awake"),
    "publication": Part("weights through shared memory"),
    "averages": Part("the moving average: of all weights, in host memory, of an adapter"),
    "adapter": Part("an adapter: trained, switched off, merged, exported", (*TORCH, "peft")),
    "test_sampler_head": Part("the sampler's output head in bf16", (*ENGINE, "pytest"), tests="test_sampler_head.py"),
    "test_run": Part("three roles on one GPU, in every setting", (*RUN, "pytest"), tests="test_run.py", limit_s=5400.0),
    "sleeping": Part("sleep and wake of an engine, with logprobs behind the wake", ENGINE),
    "exported": Part("exported folders in vLLM: with an adapter, and merged", (*ENGINE, "peft")),
    "optimizer": Part("DeepSpeed's CPU Adam beside torch's fused AdamW on the host", (*TORCH, "deepspeed")),
    "demo": Part("the demo, four steps", RUN),
    "channels": Part(
        "weight sync through shared memory and the object store", RUN, runs=("shared memory", "object store")
    ),
    "nccl": Part("weight sync from GPU to GPU", RUN, num_gpus=2, runs=("shared memory", "NCCL")),
    "turns": Part(
        "roles in turns, and with the optimizer in host memory",
        RUN,
        runs=("shared memory", "in turns", "in turns, offloaded"),
    ),
    "adapter_run": Part(
        "runs that train an adapter", (*RUN, "peft"), runs=("shared memory", "an adapter", "an adapter, in turns")
    ),
}


def absent(part: Part, device: str, gpus: Sequence[str], build: str) -> str:
    """Why a part cannot be run; "" where it can.

    Args:
        part: one of `PARTS`.
        device: "cuda" or "cpu".
        gpus: names of those that torch sees.
        build: of torch, such as "2.13.0+cpu".
    """
    if missing := [name for name in part.packages if find_spec(name) is None]:
        return f"not installed: {', '.join(missing)}"
    if device == "cpu":
        return "asks for a GPU" if part.tests or part.num_gpus > 1 else ""
    if not gpus:
        return f"no GPU (torch {build} sees none)"
    if len(gpus) < part.num_gpus:
        return f"needs {part.num_gpus} GPUs, and there is {len(gpus)}"
    return ""
