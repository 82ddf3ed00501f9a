"""The teacher workers as the loop sees them."""

import asyncio
from dataclasses import replace

from sdft_ray.config import TeacherWeights
from sdft_ray.records import Rollout, TeacherScores, TokenizedExample
from sdft_ray.weights.channel import WeightChannel, WeightKind
from sdft_ray.workers import WorkerGroup

KIND_OF_WEIGHTS = {TeacherWeights.EMA: WeightKind.EMA, TeacherWeights.LIVE: WeightKind.STUDENT}


class TeacherPool:
    """Implements roles.Teacher on the least busy worker each time."""

    def __init__(self, group: WorkerGroup, channel: WeightChannel, weights: TeacherWeights):
        self._group = group
        self._channel = channel
        self._weights = weights
        self._weight_version = 0  # workers start with the model folder's weights
        self._loading = asyncio.Lock()

    async def score(self, example: TokenizedExample, rollout: Rollout) -> TeacherScores:
        """The teacher's scores of the sampled ids under the teacher prompt; the payload stays where it is."""
        async with self._group.least_busy() as actor:
            scores, payload = actor.score.options(num_returns=2).remote(
                example.teacher_prompt_tokens, rollout.completion_tokens
            )
            return replace(await scores, payload=payload)

    async def load_weights(self, version: int) -> None:
        """Returns when every worker scores with the teacher's weights of `version`; at once if all do.

        A frozen teacher keeps the weights the run began with, version 0, and loads nothing.

        Raises:
            WeightVersionError: a worker holds another version afterwards.
        """
        if self._weights is TeacherWeights.FROZEN:
            return
        async with self._loading:
            if version == self._weight_version:
                return
            async with self._channel.publication(KIND_OF_WEIGHTS[self._weights], version) as publication:
                held = await self._group.on_all(lambda actor: actor.load_weights.remote(publication))
            self._group.confirm_version(held, version)
            self._weight_version = version
