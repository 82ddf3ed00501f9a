"""The rollout workers as the loop and the evaluator see them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Publication, Rollout
from sdft_ray.weights.channel import WeightChannel, WeightKind
from sdft_ray.workers.deadlines import Work, written
from sdft_ray.workers.group import WorkerGroup


class RolloutPool:
    """Implements roles.Completions and answers an evaluator, each time on the least busy worker."""

    def __init__(self, group: WorkerGroup, channel: WeightChannel):
        self._group = group
        self._channel = channel
        self._weight_version: int | None = 0
        self._holds_folder = True  # workers start with the model folder's weights
        self._loading = asyncio.Lock()

    @property
    def weight_version(self) -> int | None:
        """The version that every worker holds; None where the next one is to be loaded whatever its number."""
        return self._weight_version

    async def complete(self, example: TokenizedExample) -> Rollout:
        """One completion of the example's prompt."""
        work = Work("complete", written(len(example.prompt_tokens), example.max_new_tokens))
        return await self._group.call(lambda actor: actor.complete.remote(example), work)

    async def answer(self, prompt_tokens: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        """The greedy completion of a prompt."""
        work = Work("answer", written(len(prompt_tokens), max_new_tokens))
        return await self._group.call(lambda actor: actor.answer.remote(prompt_tokens, max_new_tokens), work)

    async def sample(
        self, prompt_tokens: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, seed: int
    ) -> tuple[int, ...]:
        """A completion of a prompt drawn at `temperature` from the `top_p` share of the probability mass."""
        work = Work("sample", written(len(prompt_tokens), max_new_tokens))
        return await self._group.call(
            lambda actor: actor.sample.remote(prompt_tokens, max_new_tokens, temperature, top_p, seed), work
        )

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        """Logprobs [T, nats] of a given completion at temperature 1."""
        work = Work("logprobs", len(prompt_tokens) + len(completion_tokens))
        return await self._group.call(lambda actor: actor.logprobs.remote(prompt_tokens, completion_tokens), work)

    async def likelihood(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, bool]:
        """Logprob [nats] of a given completion as a whole, and whether it is the greedy one."""
        work = Work("likelihood", len(prompt_tokens) + len(completion_tokens))
        return await self._group.call(lambda actor: actor.likelihood.remote(prompt_tokens, completion_tokens), work)

    async def logprobs_of_all(
        self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]
    ) -> dict[int, tuple[float, ...]]:
        """The same from every worker that serves, by rank; none where all are being replaced."""
        work = Work("logprobs", len(prompt_tokens) + len(completion_tokens))
        return await self._group.on_serving(lambda actor: actor.logprobs.remote(prompt_tokens, completion_tokens), work)

    async def load_weights(self, version: int, *, published: bool = False) -> None:
        """Returns when every worker samples with the student's weights of `version`; at once if all do.

        With `published`, those of the model folder do not count as version 0: the learner's replace them.

        Raises:
            WeightVersionError: a worker did not load them in time, or holds another version afterwards.
        """
        async with self._loading:
            if version == self._weight_version and not (published and self._holds_folder):
                return
            await self._channel.deliver(WeightKind.STUDENT, version, self._group, _load)
            self._weight_version = version
            self._holds_folder = False

    def forget_version(self) -> None:
        """Has the next version loaded whatever its number: the learner has begun again at an earlier one."""
        self._weight_version, self._holds_folder = None, False

    def holds(self, version: int) -> bool:
        """True when the workers hold this version, or none but that of the model folder yet."""
        return self._weight_version is None or self._holds_folder or self._weight_version == version

    @asynccontextmanager
    async def holding_current(self, newcomer: WorkerGroup) -> AsyncIterator[None]:
        """Inside the block a newcomer, which has started, holds the weights of all others, and none are loaded."""
        async with self._loading:
            if self._weight_version is not None and not self._holds_folder:
                await self._channel.deliver(WeightKind.STUDENT, self._weight_version, newcomer, _load)
            yield


def _load(actor: Any, publication: Publication) -> Any:
    return actor.load_weights.remote(publication)
