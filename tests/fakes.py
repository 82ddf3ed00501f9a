"""Every role in memory: enough to run the whole loop without a process, a tensor or a vendor."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np

from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Rollout, Sample, StepReport, TeacherScores, TokenViews, WorkerStatus


def make_example(index: int, epoch: int = 0) -> TokenizedExample:
    return TokenizedExample(
        example_id=f"example-{index}",
        epoch=epoch,
        seed=index,
        max_new_tokens=12,
        prompt_tokens=(1, 2, index),
        teacher_prompt_tokens=(1, 9, 2, index),
        demonstration_tokens=(7, 8, 0),
    )


def make_rollout(example: TokenizedExample, version: int) -> Rollout:
    """A completion that tells of which example it is, and the version that made it."""
    return Rollout(
        prompt_tokens=example.prompt_tokens,
        completion_tokens=(example.seed, version),
        logprobs=(-1.0, -1.0),
        weight_version=version,
        truncated=False,
        num_sampled=2,
    )


def make_status(role: str = "rollout", rank: int = 0, **held: Any) -> WorkerStatus:
    """What a worker tells of itself, with what it holds where a test is about that."""
    usual = {"node": "10.0.0.1", "process_id": 1, "weight_version": 0}
    peaks = {"peak_memory_gib": 0.0, "peak_gpu_memory_gib": 0.0}
    return WorkerStatus(role=role, rank=rank, **(usual | peaks | held))


def make_views(divergence: Sequence[float], scored: bool = True) -> TokenViews:
    """The student finds a token as likely as minus its divergence, the teacher as minus twice."""
    values = np.asarray(divergence, dtype=np.float32)
    of_teacher = values if scored else values[:0]
    return TokenViews(
        divergence=values,
        student_logprobs=-values,
        teacher_logprobs=-2 * of_teacher,
        student_entropy=values,
        teacher_entropy=of_teacher,
    )


class FakeExamples:
    """Counts upwards for ever."""

    def __init__(self, start: int = 0):
        self.position = start

    def __next__(self) -> TokenizedExample:
        self.position += 1
        return make_example(self.position - 1)

    def state_at(self, num_examples: int) -> dict[str, Any]:
        return {"position": num_examples}


class FakeCompletions:
    """Samples after a random pause; the completion tells the version that made it."""

    def __init__(self, seed: int = 0):
        self.version = 0
        self.open = 0
        self.max_open = 0
        self.loaded: list[int] = []
        self._random = random.Random(seed)

    async def complete(self, example: TokenizedExample) -> Rollout:
        version = self.version
        self.open += 1
        self.max_open = max(self.max_open, self.open)
        await asyncio.sleep(self._random.random() / 500)
        self.open -= 1
        return make_rollout(example, version)

    async def load_weights(self, version: int) -> None:
        await asyncio.sleep(0)
        self.version = version
        self.loaded.append(version)


class FakeTeacher:
    """Scores with the version it holds."""

    def __init__(self) -> None:
        self.version = 0

    async def score(self, example: TokenizedExample, rollout: Rollout) -> TeacherScores:
        await asyncio.sleep(0)
        return TeacherScores(payload=None, num_tokens=len(rollout.completion_tokens), teacher_version=self.version)

    async def load_weights(self, version: int) -> None:
        self.version = version


class FakeLearner:
    """Remembers its batches and the staleness of each sample."""

    def __init__(self, version: int = 0):
        self.weight_version = version
        self.batches: list[tuple[str, ...]] = []
        self.staleness: list[int] = []
        self.checkpoints: list[tuple[int, dict[str, Any]]] = []

    async def step(self, samples: AsyncIterator[Sample]) -> StepReport:
        batch = [sample async for sample in samples]
        self.batches.append(tuple(sample.example_id for sample in batch))
        staleness = [self.weight_version - sample.rollout.weight_version for sample in batch]
        self.staleness += staleness
        await asyncio.sleep(0.001)
        self.weight_version += 1
        metrics = {"learner/loss": 1.0 / self.weight_version, "loop/staleness_max": float(max(staleness))}
        return StepReport(metrics=metrics, samples=())

    async def save_checkpoint(self, data_state: Mapping[str, Any], *, wait: bool) -> None:
        self.checkpoints.append((self.weight_version, dict(data_state)))


class FakeEvaluator:
    """Remembers which versions it was asked about."""

    def __init__(self) -> None:
        self.versions: list[int] = []

    async def evaluate(self, version: int) -> dict[str, float]:
        self.versions.append(version)
        return {"evaluation/taught_accuracy": 1.0}


class FakeTracker:
    """Keeps every line."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.evaluations: list[tuple[int, dict[str, float]]] = []

    def log_step(self, step: int, metrics: Mapping[str, float], report: StepReport) -> None:
        self.steps.append((step, dict(metrics)))

    def log_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        self.evaluations.append((step, dict(metrics)))
