"""The table and the file."""

import io
import json
from dataclasses import replace

from rich.console import Console

from sdft_ray.evaluation.teacher_check.advice import Current
from sdft_ray.evaluation.teacher_check.measure import Comparison
from sdft_ray.evaluation.teacher_check.report import TeacherReport
from sdft_ray.evaluation.teacher_check.verdict import judge
from tests.evaluation.teacher_check.asked import comparison, half_right, measured

SAMPLED = [(10, 5.0 + place % 3) for place in range(32)]


def report(found: Comparison, template: str = "short") -> TeacherReport:
    return TeacherReport(
        model="some/model",
        source="rows.jsonl",
        seed=3,
        comparison=found,
        verdict=judge(found, seed=3),
        now=Current(template=template, max_new_tokens=4),
        command="python -m sdft_ray.launch +recipe=facts",
    )


def usable() -> Comparison:
    taught = half_right(30, 32, -0.5, sampled=SAMPLED)
    other = half_right(5, 32, -0.9, sampled=SAMPLED)
    return comparison(
        half_right(2, 32, -3.0), {"short": taught, "long": other}, half_right(1, 32, -4.0, sampled=SAMPLED)
    )


def text_of(made: TeacherReport, width: int = 80) -> str:
    written = io.StringIO()
    made.show(Console(file=written, width=width))
    return written.getvalue()


def row(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(start))


def test_the_table_has_a_row_for_every_prompt_and_fits_a_terminal() -> None:
    text = text_of(report(usable()))
    assert "teacher check of some/model on rows.jsonl: 32 of 32 examples, seed 3" in text
    assert row(text, "student").split() == ["student", "6%", "(2-20)", "-3.00", "±", "0.00", "0%", "0%", "-"]
    assert row(text, "short ").split()[1:3] == ["94%", "(80-98)"]
    assert "0.60 ± 0.03" in row(text, "short ")
    for start in ("long", "short, wrong"):
        assert row(text, start)
    table = text.split("right: greedy")[0].splitlines()[1:]
    assert max(map(len, table)) <= 80


def test_the_verdict_ends_with_what_to_set() -> None:
    assert "verdict: YES\n- The model can use the demonstrations" in text_of(report(usable()))
    assert row(text_of(report(usable())), "set: ") == "set: nothing, the settings may stay"
    assert row(text_of(report(usable(), template="long")), "set: ") == "set: teacher.template=short"


def test_without_answers_there_is_no_column_for_them() -> None:
    unscored = measured([None] * 8, [-1.0 + 0.01 * place for place in range(8)])
    text = text_of(report(comparison(unscored, {"short": unscored, "long": unscored}, unscored)))
    header = row(text, "prompt")
    assert header.split() == ["prompt", "logprob", "copied", "cut", "KL"]


def test_a_template_given_as_text_is_no_markup_and_does_not_break_the_table() -> None:
    inline = "[bold]{{ question }}[/red] and a long text behind it {{ demonstration }}, and on and on it goes"
    taught = half_right(30, 32, -0.5)
    found = comparison(
        half_right(2, 32, -3.0), {"short": half_right(3, 32, -1.0), inline: taught}, half_right(1, 32, -4.0)
    )
    found.sample.lengths[inline] = found.sample.lengths["short"]  # type: ignore[index]
    found = Comparison(
        sample=found.sample, student=found.student, teachers=found.teachers, best=inline, wrong=found.wrong
    )
    assert "[bold]{{ question }}[/red]" in text_of(report(found), width=160)


def test_the_file_holds_everything_and_every_answer() -> None:
    made = json.loads(json.dumps(report(usable()).as_dict(), allow_nan=False))
    assert made["student"]["accuracy"]["mean"] == 2 / 32
    assert made["student"]["divergence_nats"] is None
    assert made["teachers"]["short"]["divergence_nats"]["num_values"] == 32
    assert made["wrong_demonstration"]["template"] == "short"
    assert made["prompt_tokens"]["short"]["num_over"] == 0
    assert made["verdict"]["usable"] == "YES"
    assert made["verdict"]["gain"]["interval"]["low"] > 0
    assert made["verdict"]["settings"] == []
    assert made["verdict"]["sentences"][0].startswith("The model can use")
    assert len(made["examples"]) == 32
    first = made["examples"][0]
    assert first["wrong_demonstration_of"] == "another"
    assert set(first["answers"]) == {"student", "short", "long", "wrong_demonstration"}
    assert first["answers"]["short"] == {
        "completion": "Tosk",
        "right": True,
        "cut": False,
        "copied": False,
        "logprob": -0.5,
        "sampled_tokens": 10,
        "divergence_sum": 5.0,
    }


def test_the_next_command_stands_on_a_line_of_its_own_and_in_the_file() -> None:
    made = report(usable())
    assert row(text_of(made), "next: ") == "next: python -m sdft_ray.launch +recipe=facts"
    assert made.as_dict()["verdict"]["command"] == "python -m sdft_ray.launch +recipe=facts"


def test_the_pool_has_a_row_for_each_retriever_and_stands_in_the_file() -> None:
    found = usable()
    found = replace(found, pools={"BM25": found.wrong, "RANDOM": found.wrong}, best="short")
    text = text_of(report(found))
    assert row(text, "short, BM25").split()[2:4] == ["3%", "(1-16)"]
    assert row(text, "short, RANDOM")
    written = report(found).as_dict()
    assert written["pools"]["BM25"]["template"] == "short" and written["pools"]["BM25"]["accuracy"]["mean"] == 1 / 32
    assert {"pool_BM25", "pool_RANDOM"} <= set(written["examples"][0]["answers"])
