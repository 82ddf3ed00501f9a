"""Token ids as text in which a person sees what the model reads: special tokens told from text, and hidden spaces."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

LINE_END = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
SPACE = "\N{MIDDLE DOT}"
TAB = "\N{RIGHTWARDS ARROW}"
# A space is plain between two other characters of a line. Beside the end of a line or another space it is not.
_MARKED = re.compile(r"\n|\t|(?<![^\n\t ]) +| +(?![^\n\t ])| {2,}|[^\S \n\t]|[^\x20-\x7e\n\t]")
_HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Zs", "Co", "Cn", "Cs")  # of Unicode: characters that are not seen


class Kind(Enum):
    """What a span is."""

    TEXT = auto()
    TOKEN = auto()  # one token of the tokenizer's own, such as <|im_end|>: text that looks alike is none
    MARK = auto()  # stands for a character that would not be seen


class Span(NamedTuple):
    """A stretch of one kind."""

    text: str
    kind: Kind


class SpanDecoder:
    """Decodes with one tokenizer."""

    def __init__(self, tokenizer: Any):
        """`tokenizer` is one of transformers."""
        self._tokenizer = tokenizer
        self._added = {token: str(content) for token, content in tokenizer.added_tokens_decoder.items()}

    def spans(self, tokens: Sequence[int]) -> tuple[Span, ...]:
        """The tokens as spans, in their order."""
        found: list[Span] = []
        usual: list[int] = []
        before: int | None = None
        for token in tokens:
            if token not in self._added:
                usual.append(token)
                continue
            found += visible_spans(self._text(usual, before))
            found.append(Span(self._added[token], Kind.TOKEN))
            usual, before = [], token
        return (*found, *visible_spans(self._text(usual, before)))

    def _text(self, tokens: list[int], before: int | None) -> str:
        """Text of tokens behind another, without which some tokenizers drop the space at the beginning."""
        if not tokens:
            return ""
        head = [] if before is None else [before]
        text: str = self._tokenizer.decode([*head, *tokens], clean_up_tokenization_spaces=False)
        return text.removeprefix(self._added[before]) if before is not None else text


def visible_spans(text: str) -> Iterator[Span]:
    """Text with marks for what would not be seen; a line end has its mark and ends the line."""
    begin = 0
    for found in _MARKED.finditer(text):
        if not (mark := _mark(found[0])):
            continue
        if begin < found.start():
            yield Span(text[begin : found.start()], Kind.TEXT)
        yield Span(mark, Kind.MARK)
        begin = found.end()
    if begin < len(text):
        yield Span(text[begin:], Kind.TEXT)


def _mark(hidden: str) -> str:
    """What stands for some characters; "" where they are seen as they are."""
    if hidden == "\n":
        return f"{LINE_END}\n"
    if hidden == "\t":
        return TAB
    if hidden.strip(" ") == "":
        return SPACE * len(hidden)
    if unicodedata.category(hidden) in _HIDDEN:
        return f"<U+{ord(hidden):04X}>"
    return ""
