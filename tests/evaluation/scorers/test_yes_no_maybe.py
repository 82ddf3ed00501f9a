"""Decisions."""

import pytest

from sdft_ray.evaluation.scorers.score import Gold, Score
from sdft_ray.evaluation.scorers.yes_no_maybe import gold_decision, read_decision, score_yes_no_maybe
from tests.evaluation.scorers.real_sets import real_rows

READ = [
    ("yes", "yes"),
    ("Yes, mitochondria play a role; there is no doubt.", "yes"),
    ("No.", "no"),
    ("**Maybe**: it is not known.", "maybe"),
    ("YES", "yes"),
    ("<answer>no</answer>", "no"),
    ("Yes. <answer>No</answer>", "no"),
    ("<answer>yes</answer> <answer>maybe</answer>", "maybe"),  # the last tag counts
    ("There are no data against it. The answer is yes.", "yes"),
    ("Answer: no. On second thought, final answer: yes", "yes"),
    ("The findings say so, thus yes", "yes"),
    ("There is no such effect", "no"),
    ("\\boxed{maybe}", "maybe"),
    ("ｙｅｓ", "yes"),
]
UNREAD = [
    "",
    "It depends.",
    "Yes and no.",
    "yes/no/maybe",
    "Answer: yes or no",
    "<answer>yes or no</answer>",
    "The question is whether there is no effect; I say yes, others maybe",
    "Eyes, nothing, maybes",
    "Answer with yes, no or maybe.",  # the instruction again
]


@pytest.mark.parametrize(("completion", "decision"), READ)
def test_a_decision_is_read_from_the_common_forms(completion: str, decision: str) -> None:
    assert read_decision(completion) == decision


@pytest.mark.parametrize("completion", UNREAD)
def test_what_decides_nothing_is_no_answer(completion: str) -> None:
    assert score_yes_no_maybe(completion, Gold("no")) == Score(False, "")


def test_a_cut_tag_is_no_tag_but_the_only_word_still_decides() -> None:
    assert read_decision("<answer>yes") == "yes"


def test_the_decision_has_to_be_the_answers() -> None:
    assert score_yes_no_maybe("Yes.", Gold(" YES ")) == Score(True, "yes")
    assert score_yes_no_maybe("Yes.", Gold("maybe")) == Score(False, "yes")


@pytest.mark.parametrize("answer", ["", "yes no", "true"])
def test_an_answer_that_is_no_decision_is_an_error(answer: str) -> None:
    with pytest.raises(ValueError, match="none of yes, no, maybe"):
        gold_decision(answer)


def test_every_decision_of_the_real_set_is_right() -> None:
    rows = real_rows(
        "medical/pubmedqa_pqal1000", prompt="question", answer="final_decision", id="pmid", text="contexts"
    )
    assert {gold_decision(row.answer) for row in rows} == {"yes", "no", "maybe"}
    assert all(score_yes_no_maybe(f"<answer>{row.answer}</answer>", Gold(row.answer)).right for row in rows)
    assert all(row.text for row in rows)
