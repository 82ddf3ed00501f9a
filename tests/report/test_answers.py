"""Answers by question: which evaluations are kept, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.errors import DataError
from sdft_ray.report.answers import Answer, SetAnswers, read_answers
from sdft_ray.report.runs import read_runs
from tests.report.folders import answer_line, answer_lines, settings_of, step_line, write_run


def answers_of(folder: Path, lines: list[dict[str, Any]], answers: list[dict[str, Any]] | None) -> SetAnswers:
    write_run(folder, settings_of("sdft", 0), lines, answers=answers)
    return read_answers(read_runs([str(folder)])[0], ("taught",))["taught"]


def evaluated(*steps: int) -> list[dict[str, Any]]:
    return [step_line(step, evaluation__taught_accuracy=0.5) for step in steps]


def test_the_evaluations_before_training_and_after_the_last_step_are_kept(tmp_path: Path) -> None:
    answers = [
        line for step, rights in ((0, "-?"), (5, "+-"), (9, "++")) for line in answer_lines(step, "taught", rights)
    ]
    found = answers_of(tmp_path / "run", evaluated(0, 5, 9), answers)
    texts = ("Who?", "It is.")
    assert found.before == {"line-1": Answer('"Tosk"', False, *texts), "line-2": Answer('"Tosk"', None, *texts)}
    assert {name: answer.right for name, answer in found.after.items()} == {"line-1": True, "line-2": True}


def test_of_a_step_evaluated_twice_the_later_answers_count(tmp_path: Path) -> None:
    answers = answer_lines(5, "taught", "--") + answer_lines(5, "taught", "+-")
    found = answers_of(tmp_path / "run", evaluated(5, 5), answers)
    assert [answer.right for answer in found.after.values()] == [True, False]


def test_an_evaluation_that_was_cut_short_does_not_count(tmp_path: Path) -> None:
    answers = answer_lines(5, "taught", "+-") + answer_lines(9, "taught", "+")
    found = answers_of(tmp_path / "run", evaluated(5), answers)
    assert [answer.right for answer in found.after.values()] == [True, False]


def test_a_set_has_its_own_last_evaluation_and_another_set_is_none_of_it(tmp_path: Path) -> None:
    lines = [*evaluated(5), step_line(9, evaluation__prior_accuracy=0.5)]
    found = answers_of(tmp_path / "run", lines, answer_lines(5, "taught", "+-") + answer_lines(9, "prior", "---"))
    assert [answer.right for answer in found.after.values()] == [True, False]


def test_a_run_without_answers_is_no_error(tmp_path: Path) -> None:
    assert answers_of(tmp_path / "run", evaluated(0, 5), None) == SetAnswers()


def test_what_was_only_evaluated_has_no_metrics_and_no_answers(tmp_path: Path) -> None:
    assert answers_of(tmp_path / "run", [], answer_lines(0, "taught", "+-")) == SetAnswers()


def test_an_answer_that_is_still_being_written_is_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", settings_of("sdft", 0), evaluated(5))
    whole, half = (json.dumps(answer_line(5, "taught", name, True)) for name in ("one", "two"))
    (folder / "answers.jsonl").write_text(f"{whole}\n{half[:-9]}")
    assert list(read_answers(read_runs([str(folder)])[0], ("taught",))["taught"].after) == ["one"]


BROKEN = [
    ('{"step": 0}\nnonsense\n', "line 1: set is None, not a string"),
    ("nonsense\n", r"answers\.jsonl, line 1: is not JSON"),
    ('{"set": "taught"}\n', "line 1: is no JSON object with a whole number `step`"),
    ('{"step": 0, "set": "taught", "example_id": 7, "right": true}\n', "example_id is 7, not a string"),
    ('{"step": 0, "set": "taught", "example_id": "a", "right": 1}\n', "right is 1, not true, false or null"),
    ('{"step": 3, "set": "taught", "example_id": "a"}\n', "right is 'absent', not true, false or null"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_a_broken_line_is_named(tmp_path: Path, content: str, message: str) -> None:
    folder = write_run(tmp_path / "run", settings_of("sdft", 0), evaluated(0))
    (folder / "answers.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_answers(read_runs([str(folder)])[0], ("taught",))
