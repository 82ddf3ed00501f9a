import asyncio
from collections.abc import Sequence

import pytest

from sdft_ray.data.tokenized import TokenizedRow
from sdft_ray.evaluation.context_gap import ContextGap, choose_examples
from sdft_ray.tracking.metrics import check_declared


class Reader:
    """Finds a token half as surprising where the prompt holds it."""

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        return tuple(-1.0 if token in prompt_tokens else -2.0 for token in completion_tokens)


def row(
    example_id: str,
    demonstration: tuple[int, ...] = (7, 8, 0),
    teacher_prompt: tuple[int, ...] = (1, 7, 8, 2),
    prompt: tuple[int, ...] = (1, 2),
) -> TokenizedRow:
    return TokenizedRow(
        example_id=example_id,
        prompt_tokens=prompt,
        teacher_prompt_tokens=teacher_prompt,
        demonstration_tokens=demonstration,
    )


def test_the_gap_is_the_mean_over_examples_of_what_a_token_gains() -> None:
    known, unknown = row("a", (7, 8, 0)), row("b", (5, 5, 5, 0))  # gains of 2 / 3 and of nothing
    metrics = asyncio.run(ContextGap(Reader(), [known, unknown]).measure(3))
    check_declared(metrics)
    assert metrics == {"evaluation/context_gap_nats": pytest.approx((2 / 3 + 0) / 2)}


def test_examples_are_spread_over_the_data_and_the_same_every_time() -> None:
    rows = [row(str(index)) for index in range(20)]
    chosen = choose_examples(rows, 4, context_length=99)
    assert [example.example_id for example in chosen] == ["0", "5", "10", "15"]
    assert chosen == choose_examples(rows, 4, context_length=99)
    assert choose_examples(rows, 40, context_length=99) == rows
    assert choose_examples(rows, 0, context_length=99) == []


def test_examples_that_cannot_have_a_gap_are_not_chosen() -> None:
    rows = [
        row("nothing shown", teacher_prompt=(1, 2)),
        row("no teacher", teacher_prompt=()),
        row("no demonstration", demonstration=(0,)),
        row("too long together", teacher_prompt=(1,) * 8),
        row("able"),
    ]
    assert [example.example_id for example in choose_examples(rows, 4, context_length=11)] == ["able"]
    assert choose_examples(rows[:4], 4, context_length=11) == []
