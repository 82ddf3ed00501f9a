"""The teacher workers as the loop sees them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Publication, Rollout, Sample, TeacherScores
from sdft_ray.weights.channel import WeightChannel, WeightKind
from sdft_ray.weights.plan import WeightPlan
from sdft_ray.workers.deadlines import Work
from sdft_ray.workers.group import WorkerGroup


class TeacherPool:
    """Implements roles.Teacher on the least busy worker each time."""

    def __init__(self, group: WorkerGroup, channel: WeightChannel, weights: WeightPlan):
        """Workers start with the model folder's weights, version 0.

        Args:
            group: the workers.
            channel: that brings new weights.
            weights: which of the learner's weights they score with, who averages them, and whether they map the
                learner's memory. Those that do load version 0 as well, which spares them the folder's weights.
        """
        self._group = group
        self._channel = channel
        self._weights = weights
        self._weight_version: int | None = None if weights.teachers_map else 0
        self._holds_folder = not weights.teachers_map  # workers start with the model folder's weights
        self._loading = asyncio.Lock()

    @property
    def weight_version(self) -> int | None:
        """The version that every worker scores with; None where weights never change, or have to be loaded anew."""
        return None if self.kind is None else self._weight_version

    @property
    def kind(self) -> WeightKind | None:
        """Which of the learner's weights the workers score with; None where they are frozen."""
        return self._weights.teacher_kind

    async def score(self, example: TokenizedExample, rollout: Rollout) -> TeacherScores:
        """The teacher's scores of the sampled ids under the teacher prompt; the payload stays where it is."""
        return await self._score(example.teacher_prompt_tokens, rollout.completion_tokens, example.is_rehearsal)

    async def score_again(self, sample: Sample) -> Sample:
        """The sample with the scores of the weights that the workers hold now."""
        completion = sample.rollout.completion_tokens
        scores = await self._score(sample.teacher_prompt_tokens, completion, sample.is_rehearsal)
        return replace(sample, scores=scores)

    async def _score(
        self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int], is_rehearsal: bool
    ) -> TeacherScores:
        async def scores_and_handle(actor: Any) -> TeacherScores:
            version, payload = actor.score.options(num_returns=2).remote(prompt_tokens, completion_tokens, is_rehearsal)
            return TeacherScores(payload=payload, num_tokens=len(completion_tokens), teacher_version=await version)

        work = Work("score", len(prompt_tokens) + len(completion_tokens))
        return await self._group.call(scores_and_handle, work)

    async def load_weights(self, version: int) -> None:
        """Returns when every worker scores with the teacher's weights of `version`; at once if all do.

        A frozen teacher keeps the weights the run began with, version 0, and loads nothing.

        Raises:
            WeightVersionError: a worker did not load them in time, or holds another version afterwards.
        """
        kind, load = self._weights.teacher_kind, _replace
        if kind is None:
            return
        async with self._loading:
            if version == self._weight_version:
                return
            # Workers that lack versions, a resumed run's, cannot average on: they load the learner's average.
            if self._weights.teachers_average and self._weight_version == version - 1:
                kind, load = WeightKind.STUDENT, _average
            await self._channel.deliver(kind, version, self._group, load)
            self._weight_version, self._holds_folder = version, False

    def forget_version(self) -> None:
        """Has the next version loaded whatever its number: the learner has begun again at an earlier one."""
        self._weight_version = None

    def holds(self, version: int) -> bool:
        """True when the workers hold this version, or weights that no version changes."""
        is_fixed = self._weights.teacher_kind is None or self._weight_version is None or self._holds_folder
        return is_fixed or self._weight_version == version

    @asynccontextmanager
    async def holding_current(self, newcomer: WorkerGroup) -> AsyncIterator[None]:
        """Inside the block a newcomer, which has started, holds the weights of all others, and none are loaded."""
        async with self._loading:
            kind, version = self._weights.teacher_kind, self._weight_version
            if kind is not None and version is not None and not self._holds_folder:
                await self._channel.deliver(kind, version, newcomer, _replace)
            yield


def _replace(actor: Any, publication: Publication) -> Any:
    return actor.load_weights.remote(publication)


def _average(actor: Any, publication: Publication) -> Any:
    return actor.average_weights.remote(publication)
