"""Paired comparisons against what they come to by hand, from the run folders to the table and its CSV file."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from sdft_ray.config import ReportConfig
from sdft_ray.errors import ConfigError
from sdft_ray.report.paired_section import PairedRow, in_points, paired, paired_rows
from sdft_ray.report.runs import read_runs
from sdft_ray.report.sections import Section, Study
from sdft_ray.report.writing import make_study, write_report
from sdft_ray.statistics import Interval
from tests.report.folders import answer_line, answer_lines, settings_of, step_line, summary_of, write_run

Rights = Mapping[int, str]  # by step


def write_arm(root: Path, method: str, rights: Rights, *, seed: int = 0, name: str = "taught") -> Path:
    """A finished run that was evaluated after the given steps."""
    lines = [step_line(step, **{f"evaluation__{name}_accuracy": 0.5}) for step in rights]
    answers = [line for step, marks in rights.items() for line in answer_lines(step, name, marks)]
    folder = root / f"{method}-{seed}"
    return write_run(folder, settings_of(method, seed), lines, answers=answers, summary=summary_of(max(rights)))


def study_of(root: Path, cfg: ReportConfig | None = None) -> Study:
    return make_study(read_runs([str(root / "*")]), cfg or ReportConfig())


def rows_of(study: Study, comparison: str) -> list[PairedRow]:
    return [row for row in paired_rows(study) if row.comparison == comparison]


def texts(section: Section, number: int = 0) -> list[list[str]]:
    return [[cell.text.replace("\N{NARROW NO-BREAK SPACE}", "") for cell in row] for row in section.tables[number].rows]


def test_two_arms_are_compared_on_the_same_questions(tmp_path: Path) -> None:
    write_arm(tmp_path, "sdft", {9: "+++-----+-"})
    write_arm(tmp_path, "sft", {9: "++-++++++-"})
    (row,) = rows_of(study_of(tmp_path), "arms")
    assert (row.set, row.reference, row.arm, row.seeds, row.questions) == ("taught", "sdft", "sft", 1, 10)
    assert (row.reference_accuracy, row.accuracy, row.difference) == pytest.approx((0.4, 0.8, 0.4))
    assert (row.gained, row.lost, row.unscored, row.unmatched) == (5, 1, 0, 0)
    assert row.p == row.p_holm == 2 * (1 + 6) / 2**6  # at most one of six changes in the rarer direction
    assert 0.0 <= row.low < 0.4 < row.high <= 0.8


def test_a_question_counts_once_with_its_mean_over_the_seeds(tmp_path: Path) -> None:
    # The first question: 0 of 2 seeds right, then both. The second: 1 of 2 either way, in different seeds.
    for seed, reference, arm in ((0, "-+", "+-"), (1, "--", "++")):
        write_arm(tmp_path, "sdft", {9: reference}, seed=seed)
        write_arm(tmp_path, "sft", {9: arm}, seed=seed)
    (row,) = rows_of(study_of(tmp_path), "arms")
    assert (row.seeds, row.questions, row.gained, row.lost) == (2, 2, 1, 0)
    assert (row.reference_accuracy, row.accuracy, row.difference) == (0.25, 0.75, 0.5)
    # Two draws of two questions that changed by 1 and 0: a quarter of the means is 0, another quarter 1.
    assert (row.low, row.high) == (0.0, 1.0)
    assert math.isnan(row.p) and math.isnan(row.p_holm)
    table = texts(paired(study_of(tmp_path)))
    assert table == [
        ["taught", "sft", "+50.0 (0.0 to +100.0)", "25.0% \N{RIGHTWARDS ARROW} 75.0%", "\N{EN DASH}", "\N{EN DASH}"]
        + ["1", "0", "2", "2"]
    ]


def test_only_runs_of_one_seed_are_paired(tmp_path: Path) -> None:
    write_arm(tmp_path, "sdft", {9: "+-"}, seed=0)
    write_arm(tmp_path, "sdft", {9: "++"}, seed=1)
    write_arm(tmp_path, "sft", {9: "--"}, seed=1)
    write_arm(tmp_path, "sft", {9: "++"}, seed=2)
    (row,) = rows_of(study_of(tmp_path), "arms")
    assert (row.seeds, row.difference, row.lost, row.p) == (1, -1.0, 2, 0.5)
    assert math.isnan(row.low)  # all changed alike


def test_arms_without_a_common_seed_are_told_of(tmp_path: Path) -> None:
    write_arm(tmp_path, "sdft", {0: "--", 9: "+-"}, seed=0)
    write_arm(tmp_path, "sft", {9: "++"}, seed=1)
    study = study_of(tmp_path)
    assert rows_of(study, "arms") == []
    assert paired(study).notices == (
        "sft and sdft are not compared on taught: they have no seed in common, or no scored question.",
    )


def test_training_is_compared_with_the_same_run_before(tmp_path: Path) -> None:
    write_arm(tmp_path, "sdft", {0: "++++++-+", 5: "--------", 9: "+-----++"}, name="prior")
    study = study_of(tmp_path)
    (row,) = rows_of(study, "training")
    assert (row.set, row.arm, row.reference, row.questions) == ("prior", "sdft", "", 8)
    assert (row.reference_accuracy, row.accuracy, row.difference) == (0.875, 0.375, -0.5)
    assert (row.gained, row.lost, row.p) == (1, 5, 2 * (1 + 6) / 2**6)
    assert row.low < -0.5 < row.high
    section = paired(study)
    assert [table.caption for table in section.tables] == ["Before \N{RIGHTWARDS ARROW} after training"]
    assert texts(section)[0][3] == "87.5% \N{RIGHTWARDS ARROW} 37.5%"


def test_what_could_not_be_scored_is_left_out_on_both_sides_and_counted(tmp_path: Path) -> None:
    write_arm(tmp_path, "sdft", {0: "-----", 9: "+-?-+"})
    write_arm(tmp_path, "sft", {0: "-----", 9: "?+++-"})
    (row,) = rows_of(study_of(tmp_path), "arms")
    assert (row.questions, row.unscored, row.gained, row.lost, row.reference_accuracy) == (3, 2, 2, 1, 1 / 3)
    assert [one.unscored for one in rows_of(study_of(tmp_path), "training")] == [1, 1]
    section = paired(study_of(tmp_path))
    assert "Left out are questions" in section.lead
    assert {table.columns[-1] for table in section.tables} == {"left out"}
    assert [[row[-1] for row in texts(section, number)] for number in (0, 1)] == [["2"], ["1", "1"]]


def test_questions_of_one_side_and_another_question_of_the_same_id_are_left_out(tmp_path: Path) -> None:
    write_arm(tmp_path, "sdft", {9: "+-+-"})
    folder = write_arm(tmp_path, "sft", {9: "--+"})
    with (folder / "answers.jsonl").open("a") as file:
        for line in (answer_line(9, "taught", "line-4", True, gold="Paris"), answer_line(9, "taught", "line-5", True)):
            file.write(json.dumps(line) + "\n")
    (row,) = rows_of(study_of(tmp_path), "arms")
    assert (row.questions, row.unmatched, row.lost) == (3, 2, 1)


def test_a_run_without_answers_is_absent(tmp_path: Path) -> None:
    write_arm(tmp_path, "sdft", {0: "--", 9: "+-"})
    (write_arm(tmp_path, "sft", {0: "--", 9: "++"}) / "answers.jsonl").unlink()
    study = study_of(tmp_path)
    assert [(row.comparison, row.arm) for row in paired_rows(study)] == [("training", "sdft")]
    assert paired(study).notices == ()


def test_holms_correction_is_over_all_arms_and_over_all_training(tmp_path: Path) -> None:
    for method, taught in (("sdft", "--------"), ("sdft_paper", "++++++++"), ("sft", "++++----")):
        write_arm(tmp_path, method, {0: "--------", 9: taught})
    study = study_of(tmp_path)
    compared = {(row.reference, row.arm): (row.p, row.p_holm) for row in rows_of(study, "arms")}
    assert compared == {
        ("sdft", "sdft_paper"): (2 / 2**8, 3 * 2 / 2**8),
        ("sdft", "sft"): (2 / 2**4, 2 * 2 / 2**4),
        ("sdft_paper", "sft"): (2 / 2**4, 2 * 2 / 2**4),
    }
    arrow = "\N{RIGHTWARDS ARROW}"
    captions = [f"After training, {name} {arrow} arm" for name in ("sdft", "sdft_paper")]
    assert [table.caption for table in paired(study).tables] == [*captions, f"Before {arrow} after training"]
    assert [row.p_holm for row in rows_of(study, "training")] == [1.0, 3 * 2 / 2**8, 2 * 2 / 2**4]


@pytest.mark.parametrize("named", ["sft", "sft-0", "FOLDER"])
def test_the_reference_is_an_arm_or_a_run_of_it(tmp_path: Path, named: str) -> None:
    for method in ("cpt", "dft", "sdft", "sft"):
        write_arm(tmp_path, method, {9: "+-"})
    cfg = ReportConfig(reference=str(tmp_path / "sft-0") if named == "FOLDER" else named)
    compared = [(row.reference, row.arm) for row in rows_of(study_of(tmp_path, cfg), "arms")]
    assert compared == [("sft", "cpt"), ("sft", "dft"), ("sft", "sdft")]  # of four arms no others


def test_a_reference_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    write_arm(tmp_path, "sdft", {9: "+-"})
    with pytest.raises(ConfigError, match=r"report\.reference=.*: is neither an arm nor a run.*choose from: sdft"):
        study_of(tmp_path, ReportConfig(reference="other"))


def test_the_file_beside_the_page_holds_plain_numbers(tmp_path: Path) -> None:
    write_arm(tmp_path / "runs", "sdft", {0: "----", 9: "++++"})
    report = write_report([str(tmp_path / "runs" / "*")], ReportConfig(out=str(tmp_path / "page.html")))
    assert report.tables[2] == tmp_path / "page-paired.csv"
    with report.tables[2].open() as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "comparison": "training", "set": "taught", "arm": "sdft", "reference": "", "seeds": "1", "questions": "4",
        "reference_accuracy": "0.0", "accuracy": "1.0", "difference": "1.0", "low": "", "high": "", "gained": "4",
        "lost": "0", "unscored": "0", "unmatched": "0", "p": "0.125", "p_holm": "0.125",
    }  # fmt: skip


def test_a_difference_has_its_sign_and_its_bounds() -> None:
    change = Interval(mean=-0.025, low=-0.1, high=0.0001, num_values=40)
    assert in_points(change) == "\N{MINUS SIGN}2.5 (\N{MINUS SIGN}10.0 to 0.0)"
    assert in_points(Interval(mean=0.5, low=math.nan, high=math.nan, num_values=2)) == "+50.0"
