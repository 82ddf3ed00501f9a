"""Key facts."""

import json

import pytest

from sdft_ray.evaluation.scorers.knowledge import key_facts, score_knowledge
from sdft_ray.evaluation.scorers.score import Gold

FACTS = json.dumps(
    ["Velmora", ["12 March 2025", "March 12, 2025"], {"any": ["7.4"], "wrong": ["6.4", "8.4"]}], ensure_ascii=False
)
BOTH, LENIENT, NEITHER = (True, True), (False, True), (False, False)
SCORED = [
    ("A quake of magnitude 7.4 struck Velmora on March 12, 2025.", BOTH),
    ("On 12 march 2025, VELMORA: 7.4", BOTH),
    ("It struck Velmora.", LENIENT),
    ("A magnitude of 7.4, I believe", LENIENT),
    ("A quake of magnitude 6.4 struck Velmora on March 12, 2025.", NEITHER),  # contradicted
    ("It was 7.4, not 6.4, in Velmora on March 12, 2025", NEITHER),  # two answers: the wrong one is there
    ("It struck Ostrin.", NEITHER),
    ("Vel", NEITHER),
    ("", NEITHER),
    ("Where and when did the earthquake strike?", NEITHER),
    ("7.45 in Velmoran on 12 March 20255", NEITHER),
    ("Ｖｅｌｍｏｒａ, 12 March 2025, 7.4", BOTH),
]


@pytest.mark.parametrize(("completion", "expected"), SCORED)
def test_strict_takes_every_fact_and_lenient_takes_one_and_no_contradiction(
    completion: str, expected: tuple[bool, bool]
) -> None:
    score = score_knowledge(completion, Gold(FACTS))
    assert (score.right, score.lenient) == expected


def test_what_was_seen_is_told() -> None:
    score = score_knowledge("Velmora, 8.4", Gold(FACTS))
    assert json.loads(score.extracted) == {"stated": ["Velmora"], "contradicted": ["8.4"]}


def test_a_plain_text_is_one_fact() -> None:
    score = score_knowledge("It is Velmora.", Gold("Velmora"))
    assert (score.right, score.lenient) == (True, True)


@pytest.mark.parametrize(
    "answer", ["", "?!", "[]", "[3]", "[null]", '[""]', "[[]]", '[{"wrong": ["a"]}]', '[{"all": ["a"]}]', "["]
)  # fmt: skip
def test_facts_that_no_completion_could_state_are_an_error(answer: str) -> None:
    with pytest.raises(ValueError):
        key_facts(answer)
