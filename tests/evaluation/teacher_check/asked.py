"""A model in memory whose answers, logprobs and samples are known, and probes to ask it."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from sdft_ray.config import Match
from sdft_ray.evaluation.scorers import Gold
from sdft_ray.evaluation.teacher_check.measure import Asking, Comparison, Measured, Observation
from sdft_ray.evaluation.teacher_check.sample import STUDENT, CheckSample, Probe, PromptLengths
from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Rollout

END = 0
WORDS = {1: "Tosk", 2: "zolt", 3: "Hask", 9: "nothing"}
PLAIN, SHORT, LONG, WRONG = 10, 20, 30, 40  # the first token of a prompt tells its kind, the second its example
FAIR = {1: 0.5, 2: 0.25, END: 0.25}


def decode(tokens: tuple[int, ...]) -> str:
    return " ".join(WORDS[token] for token in tokens if token != END)


ASKING = Asking(match=Match.CONTAINS, max_new_tokens=4, eos_token_ids=frozenset({END}), decode=decode)


class FakeModel:
    """Answers by table, and draws every token of a prompt's kind from one distribution until it draws the end."""

    def __init__(
        self,
        answers: Mapping[tuple[int, ...], tuple[int, ...]],
        chances: Mapping[int, Mapping[int, float]] | None = None,
    ):
        self.answers = answers
        self.chances = dict.fromkeys((PLAIN, SHORT, LONG, WRONG), FAIR) | dict(chances or {})
        self.asked: list[tuple[int, ...]] = []

    async def answer(self, prompt_tokens: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        self.asked.append(tuple(prompt_tokens))
        return self.answers.get(tuple(prompt_tokens), (9, END))

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        chances = self.chances[prompt_tokens[0]]
        return tuple(math.log(chances[token]) for token in completion_tokens)

    async def complete(self, example: TokenizedExample) -> Rollout:
        chances = self.chances[example.prompt_tokens[0]]
        draw = random.Random(example.seed)
        tokens: list[int] = []
        while END not in tokens:
            tokens += draw.choices(list(chances), list(chances.values()))
        return Rollout(
            prompt_tokens=example.prompt_tokens,
            completion_tokens=tuple(tokens),
            logprobs=await self.logprobs(example.prompt_tokens, tokens),
            weight_version=0,
            truncated=False,
            num_sampled=len(tokens),
        )


def probe(number: int, *, answer: str = "Tosk", demonstration: tuple[int, ...] = (1, END)) -> Probe:
    return Probe(
        example_id=f"example-{number}",
        seed=number,
        gold=Gold(answer) if answer else None,
        given_texts=(f"Question {number}?",),
        demonstration=decode(demonstration),
        demonstration_tokens=demonstration,
        passes=True,
        prompt_tokens=(PLAIN, number),
        teacher_prompts={"short": (SHORT, number), "long": (LONG, number)},
        wrong_id="another",
        wrong_demonstration_tokens=(2, END),
        wrong_prompts={"short": (WRONG, number), "long": (WRONG, number, 0)},
    )


def sample_of(probes: Sequence[Probe], **changes: object) -> CheckSample:
    lengths = {
        name: PromptLengths(key="data.max_teacher_prompt_tokens", budget=100, longest=50, num_over=0)
        for name in (STUDENT, *probes[0].teacher_prompts)
    }
    values = {"num_available": len(probes), "num_unreadable": 0, "lengths": lengths, "max_model_len": 60} | changes
    return CheckSample(probes=tuple(probes), **values)  # type: ignore[arg-type]


def measured(
    right: Sequence[bool | None],
    logprobs: Sequence[float],
    *,
    copied: bool = False,
    cut: bool = False,
    sampled: Sequence[tuple[int, float]] | None = None,
) -> Measured:
    """As if it had been asked; `sampled` holds tokens and the sum of their log ratios for every example."""
    sampled = sampled if sampled is not None else [(0, 0.0)] * len(right)
    return Measured(
        observations=tuple(
            Observation(
                completion="Tosk" if own_right else "nothing",
                right=own_right,
                cut=cut,
                copied=copied,
                logprob=logprob,
                sampled_tokens=num_tokens,
                divergence_sum=divergence_sum,
            )
            for own_right, logprob, (num_tokens, divergence_sum) in zip(right, logprobs, sampled, strict=True)
        )
    )


def half_right(num_right: int, num_examples: int, logprob: float, **more: object) -> Measured:
    """The first `num_right` of the examples right, and logprobs that hardly differ."""
    right = [place < num_right for place in range(num_examples)]
    logprobs = [logprob + 0.01 * (place % 2) for place in range(num_examples)]
    return measured(right, logprobs, **more)  # type: ignore[arg-type]


def comparison(
    student: Measured,
    teachers: Mapping[str, Measured],
    wrong: Measured,
    best: str = "short",
    pools: Mapping[str, Measured] = MappingProxyType({}),
    **changes: object,
) -> Comparison:
    num_examples = len(student.observations)
    scored = [seen.right is not None for seen in student.observations]
    probes = [probe(place, answer="Tosk" if scored[place] else "") for place in range(num_examples)]
    sample = sample_of(probes, **changes)
    return Comparison(sample=sample, student=student, teachers=dict(teachers), best=best, wrong=wrong, pools=pools)


@contextmanager
def silent(what: str) -> Iterator[None]:
    """A phase nobody is told of."""
    yield
