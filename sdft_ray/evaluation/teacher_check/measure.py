"""What the model does under the plain prompt, under each teacher prompt, and with demonstrations of other rows."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from sdft_ray.config import Match
from sdft_ray.config.validation import template_label
from sdft_ray.data.reasoning import AnswerStart, at_once
from sdft_ray.evaluation.teacher_check.copying import is_copied
from sdft_ray.evaluation.teacher_check.sample import CheckSample, Probe
from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Rollout
from sdft_ray.statistics import Interval, mean_interval, proportion_interval

Phase = Callable[[str], AbstractContextManager[None]]


class Model(Protocol):
    """Who is asked: the pool of rollout workers with the weights the run would begin with."""

    async def complete(self, example: TokenizedExample) -> Rollout:
        """One completion of the example's prompt, sampled at temperature 1."""
        ...

    async def answer(self, prompt_tokens: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        """The greedy completion of a prompt."""
        ...

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        """Logprobs [T, nats] of a given completion."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How the model is asked and its answers are read."""

    match: Match
    max_new_tokens: int  # of a greedy answer
    eos_token_ids: frozenset[int]
    decode: Callable[[tuple[int, ...]], str]  # token ids to text without special tokens
    answer_start: AnswerStart = at_once  # where the part of an answer begins that is scored


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """One example under one prompt."""

    completion: str  # greedy
    right: bool | None  # None where the example has no answer
    cut: bool  # the answer reached its token limit
    copied: bool  # from the demonstration that was shown; the student's from the one it was not shown
    logprob: float  # mean over the tokens of the example's own demonstration [nats]
    sampled_tokens: int  # of a completion the teacher sampled; 0 of the student, whose divergence from itself is 0
    divergence_sum: float  # over those tokens: log q(token | teacher prompt) - log p(token | plain prompt) [nats]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """All examples under one kind of prompt."""

    observations: tuple[Observation, ...]

    @property
    def right(self) -> list[bool]:
        """Of the examples with an answer, in order; empty where fewer than two have one, which tells nothing."""
        scored = [seen.right for seen in self.observations if seen.right is not None]
        return scored if len(scored) >= 2 else []

    @property
    def logprobs(self) -> list[float]:
        """Mean logprob per token of every demonstration [nats]."""
        return [seen.logprob for seen in self.observations]

    @property
    def accuracy(self) -> Interval:
        """Share of right answers; only where there are any."""
        return proportion_interval(sum(self.right), len(self.right))

    @property
    def logprob(self) -> Interval:
        """Mean over examples [nats per token]."""
        return mean_interval(self.logprobs)

    @property
    def copied(self) -> Interval:
        """Share of answers that are copied."""
        return proportion_interval(sum(seen.copied for seen in self.observations), len(self.observations))

    @property
    def num_cut(self) -> int:
        """Answers that were cut."""
        return sum(seen.cut for seen in self.observations)

    @property
    def divergence(self) -> Interval | None:
        """KL(teacher || base) at temperature 1 [nats per token]; None of the student.

        The mean of log q - log p over all tokens that the teacher sampled: a ratio of two sums, so its interval is that
        of the mean of its linearisation, one value a completion (Cochran, Sampling Techniques, chapter 6). Tokens of
        one completion depend on one another and are never treated as if they did not.
        """
        counts = [seen.sampled_tokens for seen in self.observations]
        if not any(counts):
            return None
        sums = [seen.divergence_sum for seen in self.observations]
        ratio, mean_count = math.fsum(sums) / sum(counts), sum(counts) / len(counts)
        return mean_interval(
            [ratio + (total - ratio * count) / mean_count for total, count in zip(sums, counts, strict=True)]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The student, the teacher with every template, with a pool's demonstrations, and the control."""

    sample: CheckSample
    student: Measured
    teachers: dict[str, Measured]  # by template
    best: str  # the template with the highest accuracy, the higher logprob among equals
    wrong: Measured  # the teacher with the best template and another example's demonstration
    pools: Mapping[str, Measured] = field(default_factory=dict)  # the same with a pool's, by retriever


async def compare_prompts(model: Model, sample: CheckSample, asking: Asking, phase: Phase) -> Comparison:
    """Asks everything; demonstrations of other rows are shown in the best template only.

    Args:
        model: who is asked.
        sample: what is asked.
        asking: how.
        phase: tells the user what is going on.
    """
    probes = sample.probes
    with phase("asking the student"):
        plain = [(probe.prompt_tokens, probe.demonstration_tokens) for probe in probes]
        student = await _measure(model, probes, plain, asking, samples=False)
    teachers: dict[str, Measured] = {}
    for template in probes[0].teacher_prompts:
        with phase(f"asking the teacher with {template_label(template)}"):
            taught = [(probe.teacher_prompts[template], probe.demonstration_tokens) for probe in probes]
            teachers[template] = await _measure(model, probes, taught, asking, samples=True)
    best = max(teachers, key=lambda template: rank(teachers[template]))
    pools: dict[str, Measured] = {}
    for name in probes[0].pools:
        with phase(f"asking the teacher with {template_label(best)} and the pool's demonstrations by {name}"):
            of_pool = [(probe.pools[name].prompts[best], probe.pools[name].shown_tokens) for probe in probes]
            pools[name] = await _measure(model, probes, of_pool, asking, samples=True)
    with phase(f"asking the teacher with {template_label(best)} and wrong demonstrations"):
        misled = [(probe.wrong_prompts[best], probe.wrong_demonstration_tokens) for probe in probes]
        wrong = await _measure(model, probes, misled, asking, samples=True)
    return Comparison(sample=sample, student=student, teachers=teachers, best=best, wrong=wrong, pools=pools)


def rank(measured: Measured) -> tuple[float, float]:
    """What templates are ordered by: accuracy where there are answers, then the demonstration's logprob."""
    return (measured.accuracy.mean if measured.right else 0.0, measured.logprob.mean)


async def _measure(
    model: Model,
    probes: Sequence[Probe],
    prompts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    asking: Asking,
    *,
    samples: bool,
) -> Measured:
    """All probes at once, each under its prompt, which shows the demonstration beside it."""
    questions = (
        _observe(model, probe, prompt, shown, asking, samples=samples)
        for probe, (prompt, shown) in zip(probes, prompts, strict=True)
    )
    return Measured(observations=tuple(await asyncio.gather(*questions)))


async def _observe(
    model: Model, probe: Probe, prompt: tuple[int, ...], shown: tuple[int, ...], asking: Asking, *, samples: bool
) -> Observation:
    answer = await model.answer(prompt, asking.max_new_tokens)
    logprobs = await model.logprobs(prompt, probe.demonstration_tokens)
    sampled_tokens, divergence_sum = (
        await _diverge(model, probe, prompt, asking.max_new_tokens) if samples else (0, 0.0)
    )
    start = asking.answer_start(answer)
    ends = bool(answer) and answer[-1] in asking.eos_token_ids
    return Observation(
        completion=asking.decode(answer),
        right=probe.finds_right("" if start is None else asking.decode(answer[start:]), asking.match),
        cut=not ends,
        copied=is_copied(answer[:-1] if ends else answer, shown[:-1]),
        logprob=math.fsum(logprobs) / len(logprobs),
        sampled_tokens=sampled_tokens,
        divergence_sum=divergence_sum,
    )


async def _diverge(model: Model, probe: Probe, prompt: tuple[int, ...], max_new_tokens: int) -> tuple[int, float]:
    """Tokens of one sampled completion, and the sum of log q - log p over them."""
    sampled = await model.complete(
        TokenizedExample(
            example_id=probe.example_id,
            epoch=0,
            seed=probe.seed,
            max_new_tokens=max_new_tokens,
            prompt_tokens=prompt,
            teacher_prompt_tokens=prompt,
            demonstration_tokens=probe.demonstration_tokens,
        )
    )
    plain = await model.logprobs(probe.prompt_tokens, sampled.completion_tokens)
    return len(plain), math.fsum(sampled.logprobs) - math.fsum(plain)
