"""Settings of mode=report."""

from dataclasses import dataclass, field
from enum import Enum, auto

from sdft_ray.config.validation import require


class Figures(Enum):
    """As what the charts of a page are written beside it, one file each."""

    NONE = auto()
    SVG = auto()
    PNG = auto()  # drawn by a Chromium or Chrome on the PATH


@dataclass(kw_only=True)
class ReportConfig:
    """Where the page goes, and what it compares."""

    out: str = "report.html"  # replaced where it exists; NAME-results.csv, NAME-paired.csv and others beside it
    task: list[str] = field(default_factory=list)  # sets whose mean is the accuracy on the new task; []: the first set
    prior: list[str] = field(default_factory=list)  # the same of the prior capability; []: harness/mean, else "prior"
    reference: str = ""  # the arm, or a run of it, that all others are held against; "": the first
    paper: str = ""  # a table of the paper to stand beside the runs: a key of sdft_ray/report/paper.yaml, "" for none
    figures: Figures = Figures.NONE

    def __post_init__(self) -> None:
        require(
            self.out.endswith(".html"),
            "report.out",
            self.out,
            "is where the page goes, and its tables take its name",
            "let it end in .html",
        )
