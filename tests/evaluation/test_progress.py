import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sdft_ray.evaluation.progress import CountedRespondent, ShownEvaluator


class Echo:
    """Answers after the others have been asked."""

    async def load_weights(self, version: int) -> None:
        await asyncio.sleep(0)

    async def answer(self, prompt_tokens: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        await asyncio.sleep(0)
        return tuple(prompt_tokens)[:max_new_tokens]


class Asks:
    """Evaluates by three answers, and one more that depends on them."""

    def __init__(self, respondent: CountedRespondent):
        self._respondent = respondent

    async def evaluate(self, version: int) -> dict[str, float]:
        await self._respondent.load_weights(version)
        answers = await asyncio.gather(*(self._respondent.answer((number, 9), 1) for number in range(3)))
        await self._respondent.answer((7,), 1)
        return {"sum": float(sum(answer[0] for answer in answers))}


def test_every_evaluation_shows_the_answers_that_are_there_of_those_asked_for() -> None:
    said: list[object] = []

    @contextmanager
    def counting(what: str) -> Iterator[Callable[[int, int], None]]:
        said.append(what)
        yield lambda done, asked: said.append((done, asked))

    respondent = CountedRespondent(Echo())
    evaluator = ShownEvaluator(Asks(respondent), respondent, counting, "evaluating")
    assert asyncio.run(evaluator.evaluate(4)) == {"sum": 3.0}
    assert said == ["evaluating after step 4", (0, 1), (0, 2), (0, 3), (1, 3), (2, 3), (3, 3), (3, 4), (4, 4)]
    said.clear()
    asyncio.run(evaluator.evaluate(8))
    assert said[:2] == ["evaluating after step 8", (0, 1)]
