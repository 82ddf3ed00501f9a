"""The in-context gap: how much likelier the demonstration becomes once it stands in the prompt.

It is what the student could still learn from its teacher: with student weights on both sides, the mean logprob per
token of the demonstration under the teacher prompt minus that under the plain prompt. It starts large where the model
can use demonstrations, shrinks as the student learns, and near 0 before training the data or the template is at
fault: the model makes nothing of what it is shown.

For a moment the engine holds the logits of the prompt tokens it reads at once, over the whole vocabulary: with teacher
prompts of thousands of tokens that is gigabytes a GPU has to have left.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sdft_ray.data.tokenized import TokenizedRow, TokenizedRows


class Reader(Protocol):
    """Who is asked: the pool of rollout workers."""

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        """Logprobs [T, nats] of a given completion at temperature 1."""
        ...


class ContextGap:
    """Implements `probes.Probe`."""

    def __init__(self, reader: Reader, examples: Sequence[TokenizedRow]):
        """`examples` are the same at every evaluation, so that their gaps can be compared."""
        self._reader = reader
        self._examples = tuple(examples)

    async def measure(self, version: int) -> dict[str, float]:
        """The mean over the examples of the gap per token of their demonstrations [nats]."""
        gaps = await asyncio.gather(*map(self._gap, self._examples))
        return {"evaluation/context_gap_nats": sum(gaps) / len(gaps)}

    async def _gap(self, example: TokenizedRow) -> float:
        demonstration = example.demonstration_tokens
        shown, plain = await asyncio.gather(
            self._reader.logprobs(example.teacher_prompt_tokens, demonstration),
            self._reader.logprobs(example.prompt_tokens, demonstration),
        )
        return (sum(shown) - sum(plain)) / len(demonstration)


def choose_examples(rows: Sequence[TokenizedRow], num_examples: int, context_length: int) -> list[TokenizedRow]:
    """`num_examples` rows, or all there are, spread evenly over those that can have a gap.

    They have a demonstration and a teacher prompt that shows more than their prompt, and the model can read it
    together with the demonstration and one token more. Under a method without a teacher no row is such.
    """
    kept = TokenizedRows.of(rows)
    prompts, teacher_prompts, demonstrations = (column.lengths for column in kept.columns)
    # More than one token of a demonstration: beyond that which ends the turn.
    fits = (demonstrations > 1) & (teacher_prompts > 0) & (teacher_prompts + demonstrations < context_length)
    able = [
        index
        for index in np.flatnonzero(fits).tolist()
        if teacher_prompts[index] != prompts[index] or kept.teacher_prompts[index] != kept.prompts[index]
    ]
    taken = min(num_examples, len(able))
    return [kept[able[index * len(able) // taken]] for index in range(taken)]
