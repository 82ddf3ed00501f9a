"""An answer begins behind the token that completes the mark, however that token was cut."""

import pytest

from sdft_ray.data.reasoning import BehindMark, at_once
from tests.data.families import QWEN_3, tokenizer_with
from tests.tiny import END, make_tiny_tokenizer


@pytest.mark.parametrize("make", [make_tiny_tokenizer, lambda: tokenizer_with(QWEN_3)])
@pytest.mark.parametrize(
    "text", ["so, 北</think>\n\nIn the north.", "</think>", "a</think>b</think>c", "🙂🙂</think>🙂"]
)
def test_the_tokens_before_the_answer_are_those_up_to_the_mark(make: object, text: str) -> None:
    tokenizer = make()  # type: ignore[operator]
    start = BehindMark("</think>", tokenizer.decode)
    tokens = tuple(tokenizer.encode(text, add_special_tokens=False))
    before = start(tokens)
    assert before is not None
    assert "</think>" in tokenizer.decode(tokens[:before])
    assert "</think>" not in tokenizer.decode(tokens[: before - 1])


def test_a_completion_without_the_mark_has_no_answer() -> None:
    tokenizer = make_tiny_tokenizer()
    start = BehindMark("</think>", tokenizer.decode)
    assert start(tuple(tokenizer.encode("so, north </thin", add_special_tokens=False))) is None
    assert start(()) is None


def test_a_mark_may_be_a_special_token() -> None:
    tokenizer = make_tiny_tokenizer()
    tokens = tuple(tokenizer.encode(f"ab{END}c", add_special_tokens=False))
    assert BehindMark(END, tokenizer.decode)(tokens) == tokens.index(tokenizer.eos_token_id) + 1


def test_without_a_mark_everything_is_answer() -> None:
    assert BehindMark("", make_tiny_tokenizer().decode)((1, 2)) == at_once((1, 2)) == 0
