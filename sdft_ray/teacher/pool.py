"""The teacher workers as the loop sees them."""

import asyncio
from typing import Any

from sdft_ray.config import TeacherEma, TeacherWeights
from sdft_ray.records import Publication, Rollout, TeacherScores, TokenizedExample
from sdft_ray.weights.channel import WeightChannel, WeightKind
from sdft_ray.workers import WorkerGroup


class TeacherPool:
    """Implements roles.Teacher on the least busy worker each time."""

    def __init__(
        self,
        group: WorkerGroup,
        channel: WeightChannel,
        weights: TeacherWeights,
        ema: TeacherEma,
        *,
        maps_weights: bool = False,
    ):
        """Workers start with the model folder's weights, version 0.

        Args:
            group: the workers.
            channel: that brings new weights.
            weights: which of the learner's weights they score with.
            ema: who averages the weights of an EMA teacher.
            maps_weights: whether they score with the learner's own memory, which spares them the folder's weights
                once they have loaded version 0, too.
        """
        self._group = group
        self._channel = channel
        self._weights = weights
        self._ema = ema
        self._weight_version = None if maps_weights else 0
        self._loading = asyncio.Lock()

    async def score(self, example: TokenizedExample, rollout: Rollout) -> TeacherScores:
        """The teacher's scores of the sampled ids under the teacher prompt; the payload stays where it is."""

        async def scores_and_handle(actor: Any) -> TeacherScores:
            version, payload = actor.score.options(num_returns=2).remote(
                example.teacher_prompt_tokens, rollout.completion_tokens
            )
            return TeacherScores(
                payload=payload, num_tokens=len(rollout.completion_tokens), teacher_version=await version
            )

        return await self._group.call(scores_and_handle)

    async def load_weights(self, version: int) -> None:
        """Returns when every worker scores with the teacher's weights of `version`; at once if all do.

        A frozen teacher keeps the weights the run began with, version 0, and loads nothing.

        Raises:
            WeightVersionError: a worker did not load them in time, or holds another version afterwards.
        """
        if self._weights is TeacherWeights.FROZEN:
            return
        async with self._loading:
            if version == self._weight_version:
                return
            if self._weights is TeacherWeights.LIVE:
                kind, load = WeightKind.STUDENT, _replace
            elif self._ema is TeacherEma.RECEIVER and self._weight_version == version - 1:
                kind, load = WeightKind.STUDENT, _average
            else:  # also for workers that cannot average on, since they lack versions: a resumed run's
                kind, load = WeightKind.EMA, _replace
            await self._channel.deliver(kind, version, self._group, load)
            self._weight_version = version


def _replace(actor: Any, publication: Publication) -> Any:
    return actor.load_weights.remote(publication)


def _average(actor: Any, publication: Publication) -> Any:
    return actor.average_weights.remote(publication)
