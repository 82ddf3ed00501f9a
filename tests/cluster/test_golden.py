"""Three steps of a fixed model on a real rank end at the values that are stored beside tests/learner/golden.py.

Other tests say that two ways of computing agree; this one says that both have not moved together.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from sdft_ray.config import (
    LearnerConfig,
    MethodConfig,
    ModelConfig,
    Precision,
    Schedule,
    StageBoundaryConfig,
    Target,
    TeacherConfig,
)
from sdft_ray.learner.group import LearnerGroup
from sdft_ray.learner.saving import SavingPlan
from sdft_ray.learner.schedule import LearnerStage, StagePlan
from sdft_ray.learner.settings import LearnerSettings
from sdft_ray.learner.worker import LearnerWorker
from sdft_ray.records import Sample, TeacherScores
from sdft_ray.workers.group import WorkerGroup
from tests.learner import golden
from tests.tiny import GUARD_ROWS
from tests.weights.plans import make_plan

# Three times what was seen to change from AVX-512 to AVX2 and to SSE 4, the most at the last tokens of step 3.
TOLERANCE = 5e-6


class Rank(LearnerWorker):
    """A rank that can begin again with other settings."""

    def begin(self, address: str, port: int, settings: LearnerSettings) -> int:
        self._settings = settings
        return self._make() if torch.distributed.is_initialized() else self.start(address, port)


@pytest.fixture(scope="module")
def rank(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    environment = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    actor = ray.remote(Rank).options(num_cpus=0, runtime_env={"env_vars": environment})
    started = actor.remote(rank=0, num_ranks=1, log_dir=str(tmp_path_factory.mktemp("logs")), settings=None)
    yield started, ray.get(started.rendezvous.remote())
    ray.kill(started)


@pytest.fixture(scope="module")
def measured(rank: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, golden.Steps]:
    folder = golden.make_golden_model(tmp_path_factory.mktemp("model"))
    return {name: asyncio.run(steps(begin(rank, folder, case), case)) for name, case in golden.CASES.items()}


def begin(rank: Any, folder: str, case: golden.Case) -> LearnerGroup:
    actor, (address, port) = rank
    learner = LearnerConfig(
        learning_rate=1e-2,
        schedule=Schedule.CONSTANT,
        warmup_steps=0,
        adam_epsilon=1e-4,  # with the usual one, Adam turns a gradient of rounding errors into a full step
        zero_stage=0,
        precision=Precision.FLOAT32,
        max_tokens_per_microbatch=40,  # several microbatches a step, most of them of several samples
    )
    stage = LearnerStage(
        num_steps=golden.NUM_STEPS,
        batch_size=golden.BATCH_SIZE,
        skip_first_tokens=case.loss.skip_first_tokens,
        learner=learner,
    )
    plan = StagePlan([stage])
    settings = LearnerSettings(
        model_path=folder,
        model=ModelConfig(path=folder, dtype=Precision.FLOAT32),
        learner=learner,
        loss=case.loss,
        target=case.target,
        teacher=TeacherConfig(ema_decay=0.9, payload=case.payload),
        teacher_path=folder,
        max_staleness=0,
        temperature=1.0,
        num_tokens=golden.NUM_TOKENS,
        plan=plan,
        stage_boundary=StageBoundaryConfig(),
        weights=make_plan(learner=learner, method=MethodConfig(target=case.target), loss=case.loss),
        guard_rows=GUARD_ROWS,
        max_len=64,
        seed=0,
        device="cpu",
    )
    packing = ray.get(actor.begin.remote(address, port, settings))
    group = LearnerGroup(
        WorkerGroup("learner", [actor], "logs"),
        learner=learner,
        loss=case.loss,
        plan=plan,
        sampled=case.target is Target.TEACHER,
        num_report_samples=golden.BATCH_SIZE,
        saving=SavingPlan(root=Path("no-checkpoints"), keep=1),
    )
    group.packing = packing
    return group


async def steps(group: LearnerGroup, case: golden.Case) -> golden.Steps:
    async def batch(step: int) -> AsyncIterator[Sample]:
        for index in range(golden.BATCH_SIZE):
            rollout = golden.rollout(step, index)
            payload = None
            if case.target is Target.TEACHER:
                payload = ray.put(golden.teacher_payload(case.payload, step, index))
            scores = TeacherScores(payload=payload, num_tokens=len(rollout.completion_tokens), teacher_version=step)
            yield Sample(example_id=f"sample {index}", epoch=0, rollout=rollout, scores=scores)

    reports = [await group.step(batch(step)) for step in range(golden.NUM_STEPS)]
    assert reports[0].metrics["learner/shared_share"] > 0, "no prefix was shared, which these values are to cover"
    return [
        {
            "divergence": {sample.example_id: sample.views.divergence.tolist() for sample in report.samples},
            "loss": report.metrics["learner/loss"],
            "grad_norm": report.metrics["learner/grad_norm"],
        }
        for report in reports
    ]


@pytest.mark.parametrize("case", golden.CASES)
def test_three_steps_end_at_the_golden_values(measured: dict[str, golden.Steps], case: str, tmp_path: Path) -> None:
    own = tmp_path / golden.GOLDEN_FILE.name
    golden.write_golden(own, measured)
    moved = golden.differences(case, golden.read_golden()[case], measured[case], relative=TOLERANCE)
    assert not moved, "\n".join([*moved, f"Where this is meant, {own} is the new {golden.GOLDEN_FILE.name}."])
