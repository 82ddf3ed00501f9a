"""How much of this package one training step runs through, from the group on the driver to the optimizer."""

import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import ray
import torch

import sdft_ray
from sdft_ray.config import (
    Divergence,
    LearnerConfig,
    LossConfig,
    ModelConfig,
    Payload,
    Precision,
    StageBoundaryConfig,
    Target,
    TeacherConfig,
)
from sdft_ray.learner.group import LearnerGroup
from sdft_ray.learner.saving import SavingPlan
from sdft_ray.learner.schedule import LearnerStage, StagePlan
from sdft_ray.learner.settings import LearnerSettings
from sdft_ray.records import Sample, TeacherScores
from sdft_ray.workers.group import WorkerGroup
from tests.learner import golden
from tests.tiny import GUARD_ROWS
from tests.weights.plans import make_plan

PACKAGE = Path(sdft_ray.__file__).parent
MAX_FILES = 26  # three of them are a call to a worker and its deadline, one is what would trace the step


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `LearnerWorker.start` tells a rank that is the only one."""
    environment = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in (environment | {"DS_ACCELERATOR": "cpu"}).items():
        monkeypatch.setenv(name, value)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Remote:
    """A rank in this process, called as an actor is."""

    def __init__(self, rank: Any):
        self._rank = rank

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            return getattr(self._rank, name)(*args)

        return type("Method", (), {"remote": staticmethod(call)})


async def samples() -> AsyncIterator[Sample]:
    for index in range(golden.BATCH_SIZE):
        rollout = golden.rollout(0, index)
        payload = golden.teacher_payload(Payload.HIDDEN, 0, index)
        scores = TeacherScores(payload=payload, num_tokens=len(rollout.completion_tokens), teacher_version=0)
        yield Sample(example_id=f"sample {index}", epoch=0, rollout=rollout, scores=scores)


async def files_of(call: Callable[[], Awaitable[Any]]) -> set[str]:
    """The files of the package of which at least one function runs while `call` does, in any thread."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            seen.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        await call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return {str(Path(name).relative_to(PACKAGE)) for name in seen if name.startswith(str(PACKAGE))}


async def test_a_training_step_runs_through_few_files(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdft_ray.learner.rank import LearnerRank  # with DeepSpeed, which reads the environment when it is imported

    # The extension for ranks that share a CPU: a rank alone has no use for what takes a compiler half a minute.
    monkeypatch.setattr(import_module("deepspeed.comm.torch"), "build_shm_op", lambda: None)
    monkeypatch.setattr(ray, "get", lambda references, timeout: references)
    folder = golden.make_golden_model(tmp_path / "model")
    loss = LossConfig(divergence=Divergence.REVERSE_KL)
    learner = LearnerConfig(zero_stage=2, precision=Precision.FLOAT32)
    model = ModelConfig(path=folder, dtype=Precision.FLOAT32)
    plan = StagePlan([LearnerStage(num_steps=2, batch_size=golden.BATCH_SIZE, skip_first_tokens=1, learner=learner)])
    rank = LearnerRank(
        LearnerSettings(
            model_path=folder,
            model=model,
            learner=learner,
            loss=loss,
            target=Target.TEACHER,
            teacher=TeacherConfig(),
            teacher_path=folder,
            max_staleness=0,
            temperature=1.0,
            num_tokens=golden.NUM_TOKENS,
            plan=plan,
            stage_boundary=StageBoundaryConfig(),
            weights=make_plan(learner=learner, loss=loss, model=model),
            guard_rows=GUARD_ROWS,
            max_len=64,
            seed=0,
            device="cpu",
        ),
        rank=0,
    )
    group = LearnerGroup(
        WorkerGroup("learner", [Remote(rank)], str(tmp_path)),
        learner=learner,
        loss=loss,
        plan=plan,
        sampled=True,
        num_report_samples=2,
        saving=SavingPlan(root=tmp_path, keep=1),
    )
    group.packing = rank.packing.packing
    files = await files_of(lambda: group.step(samples()))
    print(f"{len(files)} files: {', '.join(sorted(files))}")
    assert "learner/rank.py" in files and "distill/fused_loss.py" in files
    assert len(files) <= MAX_FILES, f"{len(files)} files: {sorted(files)}"
