"""What mode=report leaves, from the command to the files."""

import csv
import re
import sys
import xml.dom.minidom
from pathlib import Path

import pytest

from sdft_ray.config import Figures, ReportConfig
from sdft_ray.errors import ConfigError
from sdft_ray.launch import main
from sdft_ray.report import export
from sdft_ray.report.results import final_rows
from sdft_ray.report.runs import read_runs
from sdft_ray.report.sections import Section
from sdft_ray.report.stages import borders, stage_of
from sdft_ray.report.writing import make_study, sections_of, write_report
from tests.report.folders import answer_line, settings_of, staged_run, step_line, summary_of, trained_run, write_run


def two_arms(root: Path, seeds: tuple[int, ...] = (0, 1)) -> str:
    for method in ("sdft", "sft"):
        for seed in seeds:
            trained_run(root / "runs" / f"{method}-{seed}", method, seed)
    return str(root / "runs" / "*")


def sections(entry: str, cfg: ReportConfig | None = None) -> dict[str, Section]:
    study = make_study(read_runs([entry]), cfg or ReportConfig())
    return {section.name: section for section in sections_of(study)}


def texts(section: Section, number: int = 0) -> list[list[str]]:
    return [[cell.text.replace("\N{NARROW NO-BREAK SPACE}", "") for cell in row] for row in section.tables[number].rows]


def test_the_command_needs_no_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = two_arms(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["launch", "mode=report", f"runs=[{entry}]", "report.out=made/page.html"])
    main()
    assert "4 runs in 2 arms" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        "page.html", "page.csv", "page-results.csv", "page-paired.csv"
    }  # fmt: skip


def test_the_tidy_table_has_every_value_once(tmp_path: Path) -> None:
    lines = [{"stage": "one"} | step_line(1, learner__loss=2.0), step_line(2, learner__loss=1.5, loop__step_s=3.0)]
    write_run(tmp_path / "run", settings_of("sdft", 7), lines)
    report = write_report([str(tmp_path / "run")], ReportConfig(out=str(tmp_path / "page.html")))
    with report.tables[0].open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "run": "run", "arm": "sdft", "seed": "7", "step": "1", "stage": "one", "key": "learner/loss", "value": "2.0"
    }  # fmt: skip
    assert [(row["step"], row["key"]) for row in rows[1:]] == [("2", "learner/loss"), ("2", "loop/step_s")]


def test_results_are_means_over_seeds_with_their_interval(tmp_path: Path) -> None:
    for seed, accuracy in ((0, 0.5), (1, 0.7)):
        lines = [step_line(0, evaluation__taught_accuracy=0.1), step_line(9, evaluation__taught_accuracy=accuracy)]
        write_run(tmp_path / f"run{seed}", settings_of("sdft", seed), lines, summary=summary_of(9))
    study = make_study(read_runs([str(tmp_path / "run*")]), ReportConfig())
    (row,) = final_rows(study)
    assert (row.arm, row.runs, row.key, row.before) == ("sdft", 2, "evaluation/taught_accuracy", 0.1)
    assert row.after == pytest.approx(0.6)
    assert row.high - row.after == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t(1 degree) times s / sqrt(2)


def test_an_unfinished_run_is_told(tmp_path: Path) -> None:
    entry = two_arms(tmp_path)
    (tmp_path / "runs" / "sft-1" / "summary.json").unlink()
    results = sections(entry)["results"]
    assert results.notices == ("sft: sft-1 has not finished; its results leave it out.",)
    assert [row[1] for row in texts(results)] == ["2", "1"]


def test_answers_that_could_not_be_scored_are_told_of(tmp_path: Path) -> None:
    for seed, unscored in ((0, 2.0), (1, 1.0)):
        lines = [
            step_line(0, evaluation__taught_accuracy=0.1, evaluation__taught_unscored=9.0),
            step_line(9, evaluation__taught_accuracy=0.5, evaluation__taught_unscored=unscored),
        ]
        write_run(tmp_path / f"run{seed}", settings_of("sdft", seed), lines, summary=summary_of(9))
    results = sections(str(tmp_path / "run*"))["results"]
    assert results.notices == ("sdft: 3 answers of taught could not be scored; its accuracy leaves them out.",)


def test_an_accuracy_of_an_earlier_evaluation_is_told_of(tmp_path: Path) -> None:
    lines = [
        step_line(5, evaluation__taught_accuracy=0.5, evaluation__taught_unscored=0.0),
        step_line(9, evaluation__taught_unscored=1.0),
    ]
    write_run(tmp_path / "run", settings_of("sdft", 0), lines, summary=summary_of(9))
    assert sections(str(tmp_path / "run"))["results"].notices == (
        "sdft: 1 answer of taught could not be scored; its accuracy leaves them out. "
        "In run not one could: that accuracy is an earlier one, if there is any.",
    )


def test_one_arm_is_compared_with_nothing(tmp_path: Path) -> None:
    trained_run(tmp_path / "run", "sdft", 0)
    assert "arms" not in sections(str(tmp_path / "run"))


def test_the_papers_figures_stand_beside_the_arms(tmp_path: Path) -> None:
    paper = sections(two_arms(tmp_path), ReportConfig(paper="skill_tooluse"))["paper"]
    rows = {(row[0], row[1]): row[2:] for row in texts(paper)}
    assert [rows["SFT", "sft"][0], rows["SFT", "sft"][2]] == ["63.2%", "56.0%"]
    assert rows["SDFT", "sdft"][0] == "70.6%"
    assert rows["DFT", "\N{EN DASH}"][1] == "\N{EN DASH}"
    assert rows["base model", "\N{EN DASH}"][1].startswith("0.0")


def test_the_base_model_is_not_what_a_mended_model_began_as(tmp_path: Path) -> None:
    base, mended = {"step": 0, "evaluation/taught_accuracy": 0.25}, {"step": 0, "evaluation/taught_accuracy": 0.75}
    write_run(tmp_path / "sft", settings_of("sft", 0), [base])
    write_run(tmp_path / "reinvoke", settings_of("reinvoke", 0, teacher={"path": "base"}), [mended])
    paper = sections(str(tmp_path / "*"), ReportConfig(paper="skill_tooluse"))["paper"]
    (row,) = [row for row in texts(paper) if row[0] == "base model"]
    assert row[3] == "25.0%"


def test_the_stages_have_borders_a_matrix_and_transfer(tmp_path: Path) -> None:
    for seed in (0, 1):
        staged_run(tmp_path / f"run{seed}", "sft", seed, ("tooluse", "science"))
    runs = read_runs([str(tmp_path / "run*")])
    assert borders(runs[0]) == (("tooluse", 0, 20), ("science", 20, 40))
    stages = sections(str(tmp_path / "run*"))["stages"]
    assert [figure.drawing.title for figure in stages.figures] == [
        "Accuracy, tooluse", "Accuracy, science", "Accuracy, prior"
    ]  # fmt: skip
    assert [row[0] for row in texts(stages)] == ["before training", "after tooluse", "after science"]
    assert texts(stages, 1) == [["sft", "\N{MINUS SIGN}30.0 \N{PLUS-MINUS SIGN} 0.0%", "0.0 \N{PLUS-MINUS SIGN} 0.0%"]]


def test_a_set_belongs_to_the_stage_it_is_called_by() -> None:
    names = ("tool", "tooluse")
    assert [stage_of(name, names) for name in ("tooluse", "tool-test", "tooluse_hard", "prior")] == [
        "tooluse", "tool", "tooluse", None
    ]  # fmt: skip


def test_without_a_teacher_there_is_no_divergence_from_it(tmp_path: Path) -> None:
    trained_run(tmp_path / "run", "sft", 0)
    found = sections(str(tmp_path / "run"))
    assert not {"positions", "tokens"} & set(found)
    assert "learner-divergence-nats" not in [figure.name for figure in found["learning"].figures]


def test_benchmarks_are_the_prior_capability_where_they_were_run(tmp_path: Path) -> None:
    lines = [step_line(step, evaluation__taught_accuracy=0.1, harness__mean_accuracy=0.6) for step in (0, 5)]
    write_run(tmp_path / "run", settings_of("sdft", 0), lines, summary=summary_of(5))
    study = make_study(read_runs([str(tmp_path / "run")]), ReportConfig())
    assert study.tasks.prior == ("harness/mean_accuracy",)


def test_a_set_that_nothing_measured_is_refused(tmp_path: Path) -> None:
    trained_run(tmp_path / "run", "sft", 0)
    with pytest.raises(ConfigError, match=r"report\.task=\[other\]: .*choose from: taught, paraphrased, prior"):
        sections(str(tmp_path / "run"), ReportConfig(task=["other"]))


def test_charts_are_files_that_need_no_style_sheet(tmp_path: Path) -> None:
    cfg = ReportConfig(out=str(tmp_path / "page.html"), figures=Figures.SVG)
    report = write_report([two_arms(tmp_path)], cfg)
    assert report.figures is not None
    drawn = sorted(report.figures.iterdir())
    assert "trade-off.svg" in [path.name for path in drawn]
    for path in drawn:
        assert "var(" not in path.read_text()
        assert xml.dom.minidom.parse(str(path)).documentElement.tagName == "svg"


def test_without_a_browser_png_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="report.figures=PNG: needs a Chromium or Chrome"):
        export.write_figures(tmp_path / "figures", [], [], Figures.PNG)


@pytest.mark.skipif(export.find_browser() is None, reason="no Chromium or Chrome is on the PATH")
def test_a_png_has_three_pixels_for_each_of_the_drawing(tmp_path: Path) -> None:
    browser = export.find_browser()
    assert browser is not None
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="90"><rect width="200" height="90"/></svg>'
    export.draw_png(browser, svg, tmp_path / "figure.png", 200, 90)
    header = (tmp_path / "figure.png").read_bytes()[16:24]
    assert (int.from_bytes(header[:4]), int.from_bytes(header[4:])) == (600, 270)


def test_the_model_that_is_given_the_article_stands_beside_the_papers_oracle(tmp_path: Path) -> None:
    for method, taught in (("sft", 0.75), ("sdft", 1.0)):
        accuracies = {
            "knowledge": (0.0, taught),
            "knowledge_oracle": (0.5, 0.25),
            "knowledge_oracle_lenient": (1.0, 0.5),
        }
        lines = [
            step_line(step, **{f"evaluation__{name}_accuracy": values[place] for name, values in accuracies.items()})
            for place, step in enumerate((0, 4))
        ]
        write_run(tmp_path / method, settings_of(method, 0), lines, summary={})
    paper = sections(str(tmp_path / "*"), ReportConfig(paper="knowledge", task=["knowledge"]))["paper"]
    rows = {row[0]: row[2:] for row in texts(paper) if row[0] in ("base model", "oracle RAG")}
    assert rows["oracle RAG"][:4] == ["91.0%", "50.0 ± 0.0%", "100.0%", "100.0 ± 0.0%"]
    assert rows["base model"][:2] == ["0.0%", "0.0 ± 0.0%"]


def test_every_paper_table_has_a_figure_for_every_row() -> None:
    from sdft_ray.report.paper import paper_tables

    for printed in paper_tables().values():
        assert printed.source == "arXiv 2601.19897"
        for row in printed.rows:
            assert set(row.figures) == set(printed.columns) and all(0 <= share <= 1 for share in row.figures.values())
            assert all(re.fullmatch(r"[a-z_.]+", key) for key in row.settings)


def answered(step: int, example: str, question: str, completion: str, right: bool) -> dict[str, object]:
    return answer_line(step, "taught", example, right) | {"question": question, "completion": completion}


def test_a_single_run_shows_each_question_with_the_answers_before_and_after(tmp_path: Path) -> None:
    lines = [step_line(step, evaluation__taught_accuracy=share) for step, share in ((0, 0.0), (4, 0.5))]
    answers = [
        answered(0, "a", "Where?", "Here.", False),
        answered(0, "b", "Who?", "I.", False),
        answered(4, "a", "Where?", "In Tosk.", True),
        answered(4, "b", "Who?", "You.", False),
    ]
    write_run(tmp_path / "run", settings_of("sdft", 0), lines, answers=answers)
    assert texts(sections(str(tmp_path / "run"))["questions"]) == [
        ["Where?", "Tosk", "Here.", "In Tosk.", "no → yes"],
        ["Who?", "Tosk", "I.", "You.", "no → no"],
    ]


def test_a_run_that_was_not_evaluated_after_training_shows_the_answers_before(tmp_path: Path) -> None:
    lines = [step_line(0, evaluation__taught_accuracy=0.0)]
    answers = [answered(0, "a", "x" * 500 + "?", "Here.", False)]
    write_run(tmp_path / "run", settings_of("sdft", 0), lines, answers=answers)
    ((question, _, before, after, right),) = texts(sections(str(tmp_path / "run"))["questions"])
    assert (before, after, right) == ("Here.", "–", "no")
    assert len(question) == 400 and question.endswith("x?")


def test_runs_that_are_compared_show_no_single_answers(tmp_path: Path) -> None:
    assert "questions" not in sections(two_arms(tmp_path))


def test_a_single_run_shows_the_settings_that_are_no_defaults_and_all_of_them_folded(tmp_path: Path) -> None:
    write_run(tmp_path / "run", settings_of("sdft", 0, learner={"learning_rate": 2e-4, "zero_stage": 2}), [])
    section = sections(str(tmp_path / "run"))["settings"]
    assert ["learner.learning_rate", "0.0002", "1e-05"] in texts(section)
    assert "learner.zero_stage" not in [row[0] for row in texts(section)]
    (folded,) = section.folded
    assert ["learner.zero_stage", "2"] in [[cell.text for cell in row] for row in folded.rows]


def test_arms_fold_the_settings_they_share(tmp_path: Path) -> None:
    section = sections(two_arms(tmp_path))["settings"]
    (folded,) = section.folded
    shared = {row[0].text for row in folded.rows}
    assert "model.path" in shared
    assert shared.isdisjoint(row[0] for row in texts(section))


def test_rehearsal_stands_with_what_is_left_of_the_old(tmp_path: Path) -> None:
    values = {"rehearsal__divergence_nats": 0.1, "rehearsal__taught_divergence_nats": 0.4, "rehearsal__rows": 2.0}
    lines = [step_line(step, **values) for step in (1, 2)]
    write_run(tmp_path / "run", settings_of("sdft", 0), lines)
    made = sections(str(tmp_path / "run"))
    assert [figure.name for figure in made["retention"].figures] == ["rehearsal-divergence-nats"]
    assert "what rehearsal holds" in made["retention"].lead
    assert [figure.name for figure in made["learning"].figures] == ["rehearsal-taught-divergence-nats"]
