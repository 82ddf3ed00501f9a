"""Text to token ids and back, as lm_eval's own adapter of transformers models does it."""

import asyncio

import pytest

from sdft_ray.errors import ConfigError
from sdft_ray.evaluation.harness.student import PIECE_TOKENS, Student
from tests.evaluation.harness.respondents import CharTokenizer, CountingRespondent


def student(respondent: CountingRespondent, max_tokens: int = 1000) -> Student:
    return Student(respondent, tokenizer=CharTokenizer(), eos_token_ids=(ord(">"),), max_tokens=max_tokens, max_open=2)


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_a_likelihood_is_the_sum_over_the_continuation_alone() -> None:
    respondent = CountingRespondent()
    logprob, greedy = asyncio.run(student(respondent).likelihood("ab", " cd"))
    assert respondent.asked == [(ids("<ab"), ids(" cd"))]
    assert (logprob, greedy) == (-(3 + 4 + 5), False)


def test_a_continuation_of_likeliest_tokens_is_greedy() -> None:
    assert asyncio.run(student(CountingRespondent()).likelihood("ax", "xx")) == (-(3 + 4), True)


def test_the_space_at_the_end_of_a_context_belongs_to_the_continuation() -> None:
    respondent = CountingRespondent()
    asyncio.run(student(respondent).likelihood("ab  ", "c"))
    assert respondent.asked == [(ids("<ab"), ids("  c"))]


@pytest.mark.parametrize("context", ["", "  "])
def test_before_a_text_without_context_stands_the_beginning_token_once(context: str) -> None:
    respondent = CountingRespondent()
    asyncio.run(student(respondent).likelihood(context, "ab"))
    asyncio.run(student(respondent).likelihood("", "<ab"))
    assert respondent.asked == [(ids("<"), ids(f"{context}ab")), (ids("<"), ids("ab"))]


def test_a_beginning_token_in_the_text_is_not_doubled() -> None:
    assert student(CountingRespondent()).encode("<ab") == ids("<ab")


def test_an_empty_continuation_is_certain_and_nobody_is_asked() -> None:
    respondent = CountingRespondent()
    assert asyncio.run(student(respondent).likelihood("ab", "")) == (0.0, True)
    assert respondent.asked == []


def test_of_a_text_that_is_too_long_the_end_is_read() -> None:
    respondent = CountingRespondent()
    asyncio.run(student(respondent, max_tokens=4).likelihood("abcdef", "xy"))
    asyncio.run(student(respondent, max_tokens=4).likelihood("ab", "uvwxyz"))
    assert respondent.asked == [(ids("ef"), ids("xy")), (ids("b"), ids("xyz"))]


def test_a_completion_ends_before_the_first_stop_string_wherever_its_tokens_break() -> None:
    respondent = CountingRespondent("a" * (PIECE_TOKENS - 2) + "\ndef f\nclass" + "b" * 500)
    text = asyncio.run(student(respondent).complete("Q", until=["\nclass", "\ndef", ""], max_new_tokens=400))
    assert text == "a" * (PIECE_TOKENS - 2)
    assert respondent.lengths == [PIECE_TOKENS] * 2, "nothing is made behind a stop string but the rest of a piece"
    assert respondent.asked[1][0] == ids("<Q" + "a" * (PIECE_TOKENS - 2) + "\nd"), (
        "a piece goes on where the last ended"
    )


def test_a_completion_ends_with_the_end_token_or_its_length() -> None:
    short = CountingRespondent("ab>")
    assert asyncio.run(student(short).complete("Q", until=[], max_new_tokens=400)) == "ab"
    assert len(short.lengths) == 1
    exact = CountingRespondent("a" * (PIECE_TOKENS - 1) + ">")
    assert len(asyncio.run(student(exact).complete("Q", until=[], max_new_tokens=400))) == PIECE_TOKENS - 1
    assert len(exact.lengths) == 1, "nobody asks behind an end token that ends a piece"
    long = CountingRespondent("a" * 999)
    assert len(asyncio.run(student(long).complete("Q", until=[], max_new_tokens=PIECE_TOKENS + 3))) == PIECE_TOKENS + 3


def test_a_prompt_loses_its_beginning_to_make_room_for_the_completion() -> None:
    respondent = CountingRespondent("xyz")
    asyncio.run(student(respondent, max_tokens=5).complete("abcdef", until=[], max_new_tokens=3))
    assert respondent.asked == [(ids("ef"), [])]


def test_a_completion_that_takes_all_the_room_is_refused_with_the_setting() -> None:
    with pytest.raises(ConfigError, match="harness.max_tokens=5: leaves no room"):
        asyncio.run(student(CountingRespondent(), max_tokens=5).complete("a", until=[], max_new_tokens=5))
