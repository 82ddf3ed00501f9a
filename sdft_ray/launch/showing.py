"""What the command prints without training: a plan, rows as the model reads them, a report, what several seeds came to.

What it takes is imported where it is called: a wrong setting should not wait for Ray and transformers.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sdft_ray.config import ReportConfig
from sdft_ray.launch.composing import Stage


def show_plan(runs: Sequence[Sequence[Stage]]) -> None:
    """Prints the plan of a run, or of the first of several; makes no run folder and starts no process.

    Evaluation sets are read where the prompts are measured: a wrong source should not wait for the start.

    Raises:
        ConfigError, DataError, ModelError: with the key, the value and the remedy.
    """
    from rich.console import Console

    from sdft_ray.data.prompts import PromptBuilder
    from sdft_ray.planning.plan import make_plan

    _, cfg = runs[0][0]

    def read_sets_too(builder: PromptBuilder) -> None:
        from sdft_ray.cluster.run_inputs import read_sets

        read_sets(cfg, builder)

    make_plan(cfg, cfg.needed_roles(), read_sets_too).show(Console(highlight=False))


def show_rows(runs: Sequence[Sequence[Stage]]) -> None:
    """Prints what the model will read of some rows of every stage; of several runs, those of the first.

    Writes a page of each stage where one is asked for.

    Raises:
        ConfigError, DataError, ModelError: with the key, the value and the remedy.
    """
    from rich.console import Console

    from sdft_ray.api import show
    from sdft_ray.preview.terminal import print_preview

    for number, (name, cfg) in enumerate(runs[0], start=1):
        if name:
            page = Path(cfg.show.out)
            out = str(page.with_name(f"{page.stem}-{number}-{name}.html"))
            cfg = replace(cfg, stages=[], show=replace(cfg.show, out=out))
        print_preview(show(cfg), Console(highlight=False))
        if cfg.show.html:
            print(f"page     {Path(cfg.show.out).absolute()}")


def show_report(runs: list[str], cfg: ReportConfig) -> None:
    """Writes the page of run folders and says where it lies.

    Raises:
        ConfigError, DataError: with the key or the file, the value or the line, and the remedy.
    """
    from sdft_ray.report.writing import write_report

    report = write_report(runs, cfg)
    num_runs, num_arms = len(report.study.runs), len(report.study.arms)
    print(f"{num_runs} run{'s' * (num_runs > 1)} in {num_arms} arm{'s' * (num_arms > 1)}")
    print(f"page     {report.page}")
    for path in report.tables:
        print(f"table    {path}")
    if report.figures is not None:
        print(f"figures  {report.figures}")


def show_seeds(folders: Sequence[Path]) -> None:
    """Prints what the runs of several seeds came to.

    Raises:
        DataError: a file of a run is broken; with the file and the line.
    """
    from rich.console import Console

    from sdft_ray.report.seeds import print_results

    print_results(folders, Console(highlight=False))
