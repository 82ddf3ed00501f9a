"""What mode=report does: reads the runs, writes the page and what lies beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdft_ray.config import Figures, ReportConfig
from sdft_ray.report import faults, origins, paired_section, questions, results, stages, training
from sdft_ray.report.arms import group_runs
from sdft_ray.report.export import write_figures, write_paired, write_results, write_tidy
from sdft_ray.report.page import render_page
from sdft_ray.report.paired_comparisons import paired_comparisons, reference_of
from sdft_ray.report.paper import paper_table
from sdft_ray.report.quantities import choose_tasks, evaluation_sets, keys_of
from sdft_ray.report.runs import Run, read_runs
from sdft_ray.report.sections import Section, Study

SECTIONS = (
    results.results,
    questions.questions,
    results.trade_off,
    results.comparison,
    paired_section.paired,
    stages.stages,
    training.learning,
    training.retention,
    results.pass_at_k,
    results.paper,
    training.positions,
    training.disagreements,
    training.times,
    faults.faults,
    origins.settings,
    origins.runs,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was written."""

    page: Path
    tables: tuple[Path, ...]
    figures: Path | None  # their folder
    study: Study


def write_report(entries: Sequence[str], cfg: ReportConfig) -> Report:
    """Writes the page, three CSV files beside it and, where asked for, its charts.

    Args:
        entries: run folders, or patterns of them.
        cfg: where to, and what is compared.

    Raises:
        ConfigError: an entry is no run folder, report.paper names no table, report.reference no arm, or there is no
            browser to draw PNG.
        DataError: a file of a run is broken; with the file and the line.
    """
    study = make_study(read_runs(entries), cfg)
    sections = sections_of(study)
    page = Path(cfg.out).absolute()
    page.parent.mkdir(parents=True, exist_ok=True)
    tidy, final = page.with_suffix(".csv"), page.with_name(f"{page.stem}-results.csv")
    write_tidy(tidy, study.arms)
    write_results(final, results.final_rows(study))
    pairs = page.with_name(f"{page.stem}-paired.csv")
    write_paired(pairs, paired_section.paired_rows(study))
    folder = None
    if cfg.figures is not Figures.NONE:
        folder = page.with_name(f"{page.stem}-figures")
        drawn = [figure for section in sections for figure in section.figures]
        write_figures(folder, drawn, study.arms, cfg.figures)
    page.write_text(render_page(study, sections), encoding="utf-8")
    return Report(page=page, tables=(tidy, final, pairs), figures=folder, study=study)


def make_study(runs: Sequence[Run], cfg: ReportConfig) -> Study:
    """The runs as arms, and what is compared between them.

    Raises:
        ConfigError: report.paper names no table, or report.reference no arm.
        DataError: a line of an answers.jsonl is broken.
    """
    keys, arms = keys_of(runs), group_runs(runs)
    return Study(
        runs=tuple(runs),
        arms=arms,
        keys=keys,
        tasks=choose_tasks(keys, cfg.task, cfg.prior),
        paired=paired_comparisons(arms, reference_of(arms, cfg.reference), evaluation_sets(keys)),
        paper=paper_table(cfg.paper) if cfg.paper else None,
    )


def sections_of(study: Study) -> list[Section]:
    """The sections that have data."""
    return [section for make in SECTIONS if not (section := make(study)).is_empty]
