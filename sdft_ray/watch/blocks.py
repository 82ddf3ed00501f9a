"""Lines of a frame: headings, bars, curves of one line, cells side by side, each of the width that is given."""

import math
from collections.abc import Sequence
from typing import TypeGuard

from rich.cells import cell_len
from rich.text import Text

EIGHTHS = " ▏▎▍▌▋▊▉█"
LEVELS = "▁▂▃▄▅▆▇█"
DIM, HEAD, BAD, GOOD = "dim", "bold", "bold red", "green"

Block = list[Text]


def line(*parts: tuple[str, str] | str | Text) -> Text:
    """A line of texts, each by itself or with its style."""
    return Text.assemble(*parts, no_wrap=True, overflow="crop")


def fitted(text: Text, width: int) -> Text:
    """The same, cut with an ellipsis or filled with blanks."""
    text = text.copy()
    text.truncate(width, overflow="ellipsis", pad=True)
    return text


def spread(left: Text, right: Text, width: int) -> Text:
    """One text at each end; the left one is cut where both do not fit."""
    return fitted(left, max(0, width - cell_len(right.plain) - 1)) + Text(" ") + right


def heading(title: str, width: int) -> Text:
    """The title of a block in a rule."""
    return line((f"─ {title} ", DIM), ("─" * max(0, width - len(title) - 3), DIM))


def cells(values: Sequence[str | Text], widths: Sequence[int]) -> Text:
    """Values in columns; a column of negative width is flush right."""
    row = Text(no_wrap=True)
    for value, width in zip(values, widths, strict=True):
        text = value if isinstance(value, Text) else Text(value)
        blank = abs(width) - cell_len(text.plain)
        row += Text(" " * max(0, blank)) + text if width < 0 else fitted(text, width)
        row += Text(" ")
    return row


def bar(share: float, width: int, style: str) -> Text:
    """A bar over `share` of the width, to an eighth of a cell."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    filled = EIGHTHS[-1] * whole + (EIGHTHS[rest] if rest else "")
    return line((filled.ljust(width), style))


def progress(share: float, width: int) -> Text:
    """How far something is."""
    done = round(min(1.0, max(0.0, share)) * width)
    return line(("━" * done, "cyan"), ("━" * (width - done), "bright_black"))


def curve(values: Sequence[float | None], width: int) -> str:
    """The last `width` values as a line of blocks between their least and their largest; a blank is no number."""
    shown = list(values)[-width:]
    finite = [value for value in shown if is_number(value)]
    if not finite:
        return " " * len(shown)
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return "".join(LEVELS[int((value - low) / span * 7.999)] if is_number(value) else " " for value in shown)


def is_number(value: float | None) -> TypeGuard[float]:
    """True when a value is there and finite."""
    return value is not None and math.isfinite(value)


def beside(left: Block, right: Block, width: int, gap: int) -> Block:
    """Two blocks side by side, each with half of the width."""
    half = (width - gap) // 2
    empty = Text("")
    rows = max(len(left), len(right))
    filled = [*left, *[empty] * (rows - len(left))], [*right, *[empty] * (rows - len(right))]
    return [fitted(one, half) + Text(" " * gap) + fitted(other, half) for one, other in zip(*filled, strict=True)]
