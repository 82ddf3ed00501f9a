"""Settings of mode=show."""

from dataclasses import dataclass, field
from enum import Enum, auto

from sdft_ray.config.validation import at_least, require


class Choice(Enum):
    """Which rows are shown where `show.ids` names none."""

    RANDOM = auto()  # drawn with the run's seed
    LONGEST = auto()  # most tokens of teacher prompt (without a teacher, of prompt) and demonstration together
    FIRST = auto()


@dataclass(kw_only=True)
class ShowConfig:
    """Which rows mode=show shows, and where."""

    ids: list[str] = field(default_factory=list)  # of examples; [] shows num_rows by `choose`
    choose: Choice = Choice.RANDOM
    num_rows: int = 3  # more than there are shows all
    html: bool = False  # whether a page is written as well, with every row in full
    out: str = "show.html"  # the page; replaced where it exists

    def __post_init__(self) -> None:
        at_least(1, "show.num_rows", self.num_rows)
        require(self.out.endswith(".html"), "show.out", self.out, "is where the page goes", "let it end in .html")
        is_out_read = self.html or self.out == ShowConfig.out
        require(
            is_out_read, "show.out", self.out, "names a page, but show.html=false writes none", "set show.html=true"
        )
        require(
            len(set(self.ids)) == len(self.ids),
            "show.ids",
            self.ids,
            "names an example twice",
            "name every example once",
        )
