"""Texts as token ids, many at a time: a fast tokenizer takes a batch of texts on all cores.

What makes token ids of an example is written as a generator: it yields a text where it needs its tokens, and goes on
with them. So the same lines encode one example at once, or thousands of them block by block, and fail alike.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

from sdft_ray.errors import SdftError

T = TypeVar("T")

BLOCK = 1024  # examples whose texts are encoded together: larger blocks are no faster, and hold more memory


class Piece(NamedTuple):
    """A stretch of text that is encoded by itself."""

    text: str
    is_literal: bool = False  # whether the text of a special token in it stays text


Tokens = tuple[int, ...]
Pieces = tuple[Piece, ...]  # whose tokens follow one another
Encoding = Generator[Pieces, Tokens, T]  # yields what it needs encoded, is sent the tokens, and returns its result


class TextEncoder:
    """Encodes texts with one tokenizer, without the special tokens that it would add by itself."""

    def __init__(self, tokenizer: Any):
        """`tokenizer` is one of transformers."""
        self._tokenizer = tokenizer

    def encode(self, pieces: Pieces) -> Tokens:
        """The token ids of one text."""
        return self.encode_all([pieces])[0]

    def encode_all(self, texts: Sequence[Pieces]) -> list[Tokens]:
        """The token ids of every text, in their order."""
        of_kind: dict[bool, list[str]] = {False: [], True: []}
        for pieces in texts:
            for piece in pieces:
                if piece.text:
                    of_kind[piece.is_literal].append(piece.text)
        encoded = {is_literal: iter(self._batch(kind, is_literal)) for is_literal, kind in of_kind.items()}
        return [
            tuple(chain.from_iterable(next(encoded[piece.is_literal]) for piece in pieces if piece.text))
            for pieces in texts
        ]

    def _batch(self, texts: list[str], is_literal: bool) -> list[list[int]]:
        if not texts:
            return []
        # Only where it matters: not every tokenizer knows the word.
        literal = {"split_special_tokens": True} if is_literal else {}
        encoded = self._tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, **literal
        )
        token_ids: list[list[int]] = encoded["input_ids"]
        return token_ids

    def run(self, encoding: Encoding[T]) -> T:
        """The result of one encoding.

        Raises:
            SdftError: what the encoding raises.
        """
        tokens: Tokens | None = None
        while True:
            try:
                pieces = encoding.send(tokens)  # type: ignore[arg-type]  # a generator begins with None
            except StopIteration as stop:
                result: T = stop.value
                return result
            tokens = self.encode(pieces)

    def run_all(self, encodings: Iterable[Encoding[T]]) -> Iterator[T | SdftError]:
        """The result of every encoding in their order, or the error that it raised."""
        remaining = iter(encodings)
        while block := list(islice(remaining, BLOCK)):
            yield from self._run_block(block)

    def _run_block(self, block: Sequence[Encoding[T]]) -> list[T | SdftError]:
        """Advances all encodings by one text a round."""
        results: dict[int, T | SdftError] = {}
        known: dict[Pieces, Tokens] = {}  # a prompt is needed by itself, and as what comes before a demonstration
        answers: dict[int, Tokens | None] = dict.fromkeys(range(len(block)))
        while answers:
            asked: dict[int, Pieces] = {}
            for number, tokens in answers.items():
                try:
                    asked[number] = block[number].send(tokens)  # type: ignore[arg-type]
                except StopIteration as stop:
                    results[number] = stop.value
                except SdftError as error:
                    results[number] = error
            new = [pieces for pieces in dict.fromkeys(asked.values()) if pieces not in known]
            known |= zip(new, self.encode_all(new), strict=True)
            answers = {number: known[pieces] for number, pieces in asked.items()}
        return [results[number] for number in range(len(block))]
