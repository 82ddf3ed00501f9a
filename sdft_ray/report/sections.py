"""The page as a list of sections; one without data is left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sdft_ray.report.arms import Arm
from sdft_ray.report.paired_comparisons import Paired
from sdft_ray.report.paper import PaperTable
from sdft_ray.report.quantities import Tasks
from sdft_ray.report.runs import Run
from sdft_ray.report.svg import Drawing
from sdft_ray.report.tables import Table
from sdft_ray.report.tokens import TokenMap


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What a page is about."""

    runs: tuple[Run, ...]
    arms: tuple[Arm, ...]
    keys: tuple[str, ...]  # of all metrics
    tasks: Tasks
    paired: Paired
    paper: PaperTable | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A chart under its section's legend."""

    name: str  # of its file
    drawing: Drawing
    note: str = ""
    numbers: Table | None = None  # the same in words; of a curve, metrics in the CSV file
    has_arms: bool = True  # whether its colours are those of the arms
    parts: tuple[str, ...] = ()  # what the colours stand for otherwise


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page with a heading."""

    name: str
    title: str
    lead: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()  # that open at a click
    maps: tuple[TokenMap, ...] = ()
    notices: tuple[str, ...] = field(default=())
    shade_end: str = ""  # nats at which the shade of the token maps ends

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.figures or self.tables or self.folded or self.maps)


def file_name(*parts: str) -> str:
    """Parts of a name as a file may be called and a page's anchor may be named."""
    kept = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in "-".join(parts).lower())
    return "-".join(part for part in kept.split("-") if part)


def numbered(figures: Sequence[Figure]) -> tuple[Figure, ...]:
    """Figures whose names differ even where the keys they come from differ in signs only."""
    seen: dict[str, int] = {}
    unique = []
    for figure in figures:
        count = seen.get(figure.name, 0)
        seen[figure.name] = count + 1
        if count:
            figure = Figure(
                name=f"{figure.name}-{count + 1}",
                drawing=figure.drawing,
                note=figure.note,
                numbers=figure.numbers,
                has_arms=figure.has_arms,
                parts=figure.parts,
            )
        unique.append(figure)
    return tuple(unique)
