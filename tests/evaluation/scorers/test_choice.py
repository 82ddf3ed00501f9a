"""The letter a completion settles on."""

import pytest

from sdft_ray.evaluation.scorers.choice import chosen_letter, gold_letter, score_choice
from sdft_ray.evaluation.scorers.score import Gold, Score
from tests.evaluation.scorers.real_sets import real_rows

READ = [
    ("<reasoning>\nA is too small.\n</reasoning>\n<answer>\nB\n</answer>", "B"),
    ("<answer>b</answer>", "B"),
    ("<ANSWER> (B) </ANSWER>", "B"),
    ("<answer>B.</answer>", "B"),
    ("<answer>B: 18</answer>", "B"),
    ("<answer>A</answer> No, wait. <answer>B</answer>", "B"),  # the last tag counts
    ("<answer>A</answer> Answer: C", "A"),  # a tag comes before any other kind
    ("<answer>A</answer> or perhaps <answer>B", "A"),  # a tag that was cut is none
    ("<answer> <answer>B</answer>", "B"),
    ("So \\boxed{B}", "B"),
    ("So \\boxed{A}, no, \\boxed{ \\text{B}}.", "B"),
    ("Answer: B", "B"),
    ("answer is (b).", "B"),
    ("**Answer:** B", "B"),
    ("The answer is **B**", "B"),
    ("## Answer\nB", "B"),
    ("The correct answer is: B) 18", "B"),
    ("The correct option is B because A is too small.", "B"),
    ("Answer: A\nLet me check.\nAnswer: B", "B"),
    ("Answer: B, since the others are wrong", "B"),
    ("B", "B"),
    (" (B) ", "B"),
    ("B.", "B"),
    ("B) 18", "B"),
    ("B: 18\nThe molecule has 18 atoms.", "B"),
    ("I would say (B), which has 18 atoms.", "B"),
    ("It is **(B)**.", "B"),
    ("Ｂ", "B"),  # full-width
    ("<answer>Ｂ</answer>", "B"),
    ("Réponse: non. Answer: B", "B"),
]  # fmt: skip
UNREAD = [
    "",
    "   \n",
    "I do not know.",
    "<answer>B",  # cut
    "<answer>",
    "<answer></answer> Answer: B",  # an empty tag is an answer that says nothing
    "<answer>A or B</answer>",
    "<answer>A, B</answer>",
    "<answer>A: 63 B: 18</answer>",
    "<answer>18</answer>",
    "<answer>Z</answer>",
    "Answer: A or B",
    "Answer: A, B",
    "Answer: (A) and (B)",
    "Answer: (B) or C",
    "The answer is a matter of taste.",
    "Answer: A molecule with 18 atoms",
    "A molecule with 18 atoms",
    "How many?\n\nA: 63\nB: 18\nC: 58\nD: 80",  # the question's options again
    "A: 63\nB: 18\nC: 58\nD: 80",
    "It is (A) or it is (B).",
    "The product is (E)-but-2-ene and benzo(a)pyrene.",
    "The answer is e.g. benzene.",
    "Benzene",
    "CC(C)OC(=O)C1CC[N+](C)(C)C1",
    "C.CC",
    "В",  # a Cyrillic letter
]


@pytest.mark.parametrize(("completion", "letter"), READ)
def test_a_letter_is_read_from_the_common_forms(completion: str, letter: str) -> None:
    assert chosen_letter(completion) == letter


@pytest.mark.parametrize("completion", UNREAD)
def test_what_settles_on_no_letter_is_no_answer(completion: str) -> None:
    assert chosen_letter(completion) == ""
    assert score_choice(completion, Gold("A")) == Score(False, "")


def test_the_letter_has_to_be_the_answers() -> None:
    assert score_choice("<answer>B</answer>", Gold(" b ")) == Score(True, "B")
    assert score_choice("<answer>B</answer>", Gold("C")) == Score(False, "B")


@pytest.mark.parametrize("answer", ["", "AB", "1", "Z", "A or B"])
def test_an_answer_that_is_no_letter_is_an_error(answer: str) -> None:
    with pytest.raises(ValueError, match="is not a letter from A to J"):
        gold_letter(answer)


def test_every_demonstration_of_the_real_set_is_right_and_no_question_is() -> None:
    rows = real_rows("science/chemL3_mcq_train_minus_eval507")
    assert len(rows) == 1803
    assert all(score_choice(row.demonstration, Gold(row.answer)).right for row in rows)
    assert not [row.prompt[-1].content for row in rows if chosen_letter(row.prompt[-1].content)]


def test_every_answer_of_the_real_test_set_is_a_letter() -> None:
    assert {gold_letter(row.answer) for row in real_rows("science/official_eval507")} == set("ABCD")
