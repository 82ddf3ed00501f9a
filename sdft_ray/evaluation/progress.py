"""How far an evaluation is: the answers that are there, of those that were asked for.

The evaluator counts its questions, and the respondent is wrapped to count its answers. Every answer updates the
console.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from sdft_ray.roles import Evaluator

Update = Callable[[int, int], None]  # answers done, answers asked for
Counting = Callable[[str], AbstractContextManager[Update]]

T = TypeVar("T")


class CountedRespondent:
    """The pool of rollout workers, with a count."""

    def __init__(self, respondent: Any):
        self._respondent = respondent
        self.begin(lambda done, asked: None)

    def begin(self, update: Update) -> None:
        """Counts from 0, and tells `update`."""
        self._update = update
        self._num_done = self._num_asked = 0

    async def load_weights(self, version: int) -> None:
        """Returns when it answers with the student's weights of `version`."""
        await self._respondent.load_weights(version)

    async def answer(self, prompt_tokens: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        """The greedy completion of a prompt."""
        return await self._counted(self._respondent.answer(prompt_tokens, max_new_tokens))

    async def sample(
        self, prompt_tokens: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, seed: int
    ) -> tuple[int, ...]:
        """A completion of a prompt drawn at `temperature` from the `top_p` share of the probability mass."""
        return await self._counted(self._respondent.sample(prompt_tokens, max_new_tokens, temperature, top_p, seed))

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        """Logprobs [T, nats] of a given completion."""
        return await self._counted(self._respondent.logprobs(prompt_tokens, completion_tokens))

    async def likelihood(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, bool]:
        """Logprob [nats] of a given completion as a whole, and whether it is the greedy one."""
        return await self._counted(self._respondent.likelihood(prompt_tokens, completion_tokens))

    async def _counted(self, answer: Awaitable[T]) -> T:
        self._num_asked += 1
        self._update(self._num_done, self._num_asked)
        given = await answer
        self._num_done += 1
        self._update(self._num_done, self._num_asked)
        return given


class ShownEvaluator:
    """Implements `roles.Evaluator`: another evaluator, with its progress on the terminal."""

    def __init__(self, evaluator: Evaluator, respondent: CountedRespondent, counting: Counting, what: str):
        """Evaluates nothing yet.

        Args:
            evaluator: what evaluates.
            respondent: whom it asks.
            counting: shows what is going on, and how far it is.
            what: what to call it.
        """
        self._evaluator = evaluator
        self._respondent = respondent
        self._counting = counting
        self._what = what

    async def evaluate(self, version: int) -> dict[str, float]:
        """Metrics of the student's weights of `version`."""
        with self._counting(f"{self._what} after step {version}") as update:
            self._respondent.begin(update)
            return await self._evaluator.evaluate(version)
