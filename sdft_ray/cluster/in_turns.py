"""The loop's roles where they share one device by turns: what each asks of the others' memory, in an order that works.

Decorators of the interfaces in `roles.py`; the loop does not know of them. Groups take turns by themselves
(`turns.py`). What is added here is what spans several calls: a step of the learner is one turn, and an engine that woke
is asked for logprobs before it samples.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Protocol

from sdft_ray.cluster.guards import cut, refuse_other_weights
from sdft_ray.cluster.turns import Turns
from sdft_ray.config import RunConfig
from sdft_ray.examples import GuardRow, TokenizedExample
from sdft_ray.records import Rollout, Sample, StepReport
from sdft_ray.roles import Completions, Evaluator, Learner

WOKE_WITH_OTHERS = (
    "It woke with other weights than it fell asleep with, or missed a load: set cluster.turns=false with a part of a "
    "GPU for every role, and report the versions of vLLM and driver."
)


class Engines(Protocol):
    """What is asked of the rollout workers after they woke."""

    async def logprobs_of_all(
        self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]
    ) -> Mapping[int, tuple[float, ...]]:
        """Logprobs [T, nats] of a given completion by rank, from every worker that serves."""
        ...


class Student(Learner, Protocol):
    """What is asked of the learner group."""

    unchanged: asyncio.Lock

    async def logprobs(self, rows: Sequence[GuardRow]) -> list[tuple[float, ...]]:
        """Logprobs [T, nats] of the completion tokens of every row."""
        ...


class WakeCheck:
    """Holds the first logprobs of engines that woke, or loaded weights, against the learner's.

    The learner's are asked for at the end of a step, in its own turn, and once more only where nobody has.
    """

    def __init__(
        self, turns: Turns, engines: Engines, student: Student, row: GuardRow, *, cfg: RunConfig, max_model_len: int
    ):
        """`row` is what both sides read, of at most `max_model_len` tokens."""
        self._turns = turns
        self._engines = engines
        self._student = student
        self._row = cut(row, max_model_len - 1)
        self._cfg = cfg
        self._expected: dict[int, tuple[float, ...]] = {}  # by weight version, of the last one only
        self._checked = (-1, -1)  # number of wakes, weight version
        self._checking = asyncio.Lock()

    async def expect(self) -> tuple[float, ...]:
        """The learner's logprobs [T, nats] with its weights of now."""
        version = self._student.weight_version
        (logprobs,) = await self._student.logprobs([self._row])
        self._expected = {version: logprobs}
        return logprobs

    async def check(self) -> None:
        """Returns at once where engines have neither slept nor loaded since the last check.

        Raises:
            GuardError: an engine computes other logprobs than the learner: it woke with other weights.
        """
        async with self._checking:
            version = self._student.weight_version
            if self._checked == (self._turns.num_wakes["rollout"], version):
                return
            expected = self._expected.get(version) or await self.expect()
            answers = await self._engines.logprobs_of_all(self._row.prompt_tokens, self._row.completion_tokens)
            weights = f"the student's weights {version}, may have slept since"
            refuse_other_weights([answers], expected, self._cfg, weights, WOKE_WITH_OTHERS)
            if answers:  # else all are being replaced, and the newcomers are asked
                self._checked = (self._turns.num_wakes["rollout"], version)


class CompletionsInTurns:
    """Implements roles.Completions: what another one samples, with engines that were looked at after they woke."""

    def __init__(self, sampler: Completions, check: WakeCheck):
        self._sampler = sampler
        self._check = check

    async def complete(self, example: TokenizedExample) -> Rollout:
        """One completion. Raises GuardError where an engine woke with other weights."""
        await self._check.check()
        return await self._sampler.complete(example)

    async def load_weights(self, version: int) -> None:
        """Has the sampler load them."""
        await self._sampler.load_weights(version)


class EvaluatorInTurns:
    """Implements roles.Evaluator in the rollout workers' turn."""

    def __init__(self, evaluator: Evaluator, check: WakeCheck):
        self._evaluator = evaluator
        self._check = check

    async def evaluate(self, version: int) -> dict[str, float]:
        """Metrics of the student's weights. Raises GuardError where an engine woke with other weights."""
        await self._check.check()
        return await self._evaluator.evaluate(version)


class LearnerInTurns:
    """Implements roles.Learner: a step begins with its last sample, and nothing else has the device until its end."""

    def __init__(self, learner: Student, turns: Turns, check: WakeCheck | None):
        """`check` is None where nothing is sampled."""
        self._learner = learner
        self._turns = turns
        self._check = check
        self._step = asyncio.Lock()

    @property
    def weight_version(self) -> int:
        """See `roles.Learner`."""
        return self._learner.weight_version

    async def step(self, samples: AsyncIterator[Sample]) -> StepReport:
        """See `roles.Learner`. Payloads of the whole batch lie in host memory meanwhile."""
        started = perf_counter()
        batch = [sample async for sample in samples]
        # Before the turn: a newcomer, which loads between two steps, holds this lock while it waits for its own turn.
        async with self._step, self._turns.of("learner"):
            wait_s = perf_counter() - started
            report = await self._learner.step(_handed_on(batch))
            if self._check is not None:
                await self._check.expect()
        return replace(report, metrics={**report.metrics, "loop/wait_s": wait_s})

    async def save_checkpoint(self, data_state: Mapping[str, Any], *, wait: bool) -> None:
        """See `roles.Learner`."""
        await self._learner.save_checkpoint(data_state, wait=wait)

    async def __aenter__(self) -> None:
        """Enters a block in which the learner changes no weights."""
        await self._step.acquire()
        try:
            await self._learner.unchanged.acquire()
        except BaseException:
            self._step.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._learner.unchanged.release()
        self._step.release()


async def _handed_on(batch: list[Sample]) -> AsyncIterator[Sample]:
    """The samples in their order; the last handle of each payload is the one that is handed on."""
    batch.reverse()
    while batch:
        yield batch.pop()
