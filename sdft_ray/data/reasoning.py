"""Where the answer of a completion begins: behind the text that ends its reasoning, such as </think>."""

from bisect import bisect_left
from collections.abc import Callable

AnswerStart = Callable[[tuple[int, ...]], int | None]  # completion tokens -> how many stand before its answer


def at_once(tokens: tuple[int, ...]) -> int:
    """All of a completion is its answer."""
    return 0


class BehindMark:
    """An `AnswerStart`: an answer begins behind the first place where the mark stands."""

    def __init__(self, mark: str, decode: Callable[[tuple[int, ...]], str]):
        """`decode` keeps special tokens, since the mark may be one; with the mark "" all of a completion is answer."""
        self._mark = mark
        self._decode = decode

    def __call__(self, tokens: tuple[int, ...]) -> int | None:
        """Tokens up to and including the one with the mark's end; None where the mark is missing.

        It is looked for in the text, because a token may hold its end together with what follows.
        """
        if not self._mark:
            return 0
        if self._mark not in self._decode(tokens):
            return None
        return bisect_left(range(len(tokens)), True, key=lambda end: self._mark in self._decode(tokens[:end]))
