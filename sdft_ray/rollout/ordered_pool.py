"""The rollout workers of a deterministic run: every engine computes one share of a wave at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Rollout, SampleRequest
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.rollout.waves import Waves
from sdft_ray.weights.channel import WeightChannel
from sdft_ray.workers.deadlines import Work, written
from sdft_ray.workers.group import WorkerGroup

Request = TypeVar("Request")
Result = TypeVar("Result")
Tokens = tuple[int, ...]


class OrderedRolloutPool(RolloutPool):
    """As `RolloutPool`, in waves: completions to train on, answers, and logprobs each have their own.

    A wave is dealt out in as many shares as there are workers, one request to each in turn. A share has the same
    results on whichever worker computes it, so a worker that is lost changes none.
    """

    def __init__(self, group: WorkerGroup, channel: WeightChannel):
        super().__init__(group, channel)
        self._completions = Waves(self._complete_all)
        self._samples = Waves(self._sample_all)
        self._readings = Waves(self._read_all)

    async def complete(self, example: TokenizedExample) -> Rollout:
        """See `RolloutPool.complete`."""
        return await self._completions.submit(example)

    async def answer(self, prompt_tokens: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        """See `RolloutPool.answer`."""
        return await self.sample(prompt_tokens, max_new_tokens, temperature=0.0, top_p=1.0, seed=0)

    async def sample(
        self, prompt_tokens: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, seed: int
    ) -> tuple[int, ...]:
        """See `RolloutPool.sample`."""
        return await self._samples.submit(
            SampleRequest(
                prompt_tokens=tuple(prompt_tokens),
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
            )
        )

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        """See `RolloutPool.logprobs`."""
        logprobs, _ = await self._readings.submit((tuple(prompt_tokens), tuple(completion_tokens)))
        return logprobs

    async def likelihood(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, bool]:
        """See `RolloutPool.likelihood`."""
        logprobs, ranks = await self._readings.submit((tuple(prompt_tokens), tuple(completion_tokens)))
        return sum(logprobs), all(rank == 1 for rank in ranks)

    async def _complete_all(self, examples: list[TokenizedExample]) -> list[Rollout]:
        return await self._in_shares(
            "complete_together",
            examples,
            lambda actor, share: actor.complete_together.remote(share),
            lambda example: written(len(example.prompt_tokens), example.max_new_tokens),
        )

    async def _sample_all(self, requests: list[SampleRequest]) -> list[Tokens]:
        return await self._in_shares(
            "sample_together",
            requests,
            lambda actor, share: actor.sample_together.remote(share),
            lambda request: written(len(request.prompt_tokens), request.max_new_tokens),
        )

    async def _read_all(self, sequences: list[tuple[Tokens, Tokens]]) -> list[tuple[tuple[float, ...], Tokens]]:
        return await self._in_shares(
            "read_together",
            sequences,
            lambda actor, share: actor.read_together.remote(share),
            lambda sequence: sum(map(len, sequence)),
        )

    async def _in_shares(
        self,
        kind: str,
        requests: list[Request],
        call: Callable[[Any, list[Request]], Awaitable[list[Result]]],
        amount: Callable[[Request], float],
    ) -> list[Result]:
        size = self._group.size

        async def ask(share: list[Request]) -> list[Result]:
            return await self._group.call(lambda actor: call(actor, share), Work(kind, sum(map(amount, share))))

        shares = [requests[first::size] for first in range(min(size, len(requests)))]
        answers = await asyncio.gather(*map(ask, shares))
        return [answers[index % size][index // size] for index in range(len(requests))]


def make_pool(group: WorkerGroup, channel: WeightChannel, *, ordered: bool) -> RolloutPool:
    """The pool of a run, `ordered` if it is deterministic."""
    return OrderedRolloutPool(group, channel) if ordered else RolloutPool(group, channel)
