"""Every scorer, on what a completion may be at its worst."""

import json
import time

import pytest

from sdft_ray.config import Match
from sdft_ray.evaluation.scorers import Gold, check_gold, is_right, score

RULES = [match for match in Match if match is not Match.JUDGE]
GOLDS = {
    Match.CONTAINS: "Velmora",
    Match.EXACT: "Velmora",
    Match.TOOL_CALL: '{"Action": "find", "Action_Input": {"n": 3}}',
    Match.CHOICE: "B",
    Match.YES_NO_MAYBE: "yes",
    Match.KNOWLEDGE: '["Velmora", {"any": ["7.4"], "wrong": ["6.4"]}]',
}
RIGHT = {
    Match.CONTAINS: "Velmora",
    Match.EXACT: "Velmora",
    Match.TOOL_CALL: 'Action: find\nAction Input: {"n": 3}',
    Match.CHOICE: "<answer>B</answer>",
    Match.YES_NO_MAYBE: "<answer>yes</answer>",
    Match.KNOWLEDGE: "Velmora, 7.4",
}
PROMPT = 'In this form, such as for A:\n<answer>\nA\n</answer>\nVelmora 7.4? Action: x\nAction Input: {"n": 3}'
SIZE = 100_000
# Repeated pieces that make a careless pattern look at everything again from every place.
PIECES = [
    "a", " ", "\n", "word ", "Velmora ", "<answer>", "</answer>", "<answer>B</answer>", "\\boxed{", "\\boxed{ ", "}",
    "answer", "answer ", "answer:", "answer: \t", "Answer: B or ", "(B) ", "(A) or ", "B", "B.", "yes ", "yes/",
    "*", "_:",    "Action:", "Action:\n", "Action: a ", "Action: a\nAction Input: {}\n", "Action: a\nAction Input: ",
    "[", "{", '{"a":', '"', "\\", "9", "9.", "\u0130", "\ufdfa", "e\u0301", "\U0001f600", "\x00",
]  # fmt: skip


@pytest.mark.parametrize("match", RULES, ids=lambda match: match.name)
def test_a_gold_answer_is_right_and_nothing_else_is(match: Match) -> None:
    gold = Gold(GOLDS[match])
    check_gold(gold, match)
    assert score(RIGHT[match], gold, match).right is True
    for other in ("", " \n", "nonsense", "\x00", "\U0001f600", RIGHT[match][: len(RIGHT[match]) // 2]):
        assert score(other, gold, match).right is False, other


@pytest.mark.parametrize("match", RULES, ids=lambda match: match.name)
def test_a_prompt_that_comes_back_is_no_answer_and_hides_none(match: Match) -> None:
    gold = Gold("A" if match is Match.CHOICE else GOLDS[match])
    right = "<answer>A</answer>" if match is Match.CHOICE else RIGHT[match]
    assert score(PROMPT, gold, match, echoes=(PROMPT,)).right is False
    assert score(f"{PROMPT}\n{right}", gold, match, echoes=(f"  {PROMPT}\n",)).right is True


def test_a_short_turn_that_comes_back_may_be_the_answer() -> None:
    assert score("Velmora", Gold("Velmora"), Match.CONTAINS, echoes=("Velmora",)).right is True


@pytest.mark.parametrize("match", RULES, ids=lambda match: match.name)
def test_a_huge_completion_takes_no_time(match: Match) -> None:
    gold = Gold(GOLDS[match])
    for piece in PIECES:
        huge = piece * (SIZE // len(piece))
        begin = time.process_time()
        for completion in (huge, "<answer>\\boxed{\nAction: a\nAction Input: " + huge):
            json.dumps(score(completion, gold, match)._asdict(), ensure_ascii=False)
        assert time.process_time() - begin < 2.0, piece  # quadratic time would be minutes


@pytest.mark.parametrize("match", [Match.CONTAINS, Match.CHOICE, Match.YES_NO_MAYBE, Match.TOOL_CALL, Match.KNOWLEDGE])
def test_an_answer_at_the_end_of_a_huge_completion_is_found(match: Match) -> None:
    assert score("word \n" * (SIZE // 6) + "\n" + RIGHT[match], Gold(GOLDS[match]), match).right is True


@pytest.mark.parametrize("match", RULES, ids=lambda match: match.name)
def test_a_gold_answer_that_says_nothing_is_refused(match: Match) -> None:
    with pytest.raises(ValueError):
        check_gold(Gold("?!"), match)


def test_is_right_is_the_score_alone() -> None:
    assert is_right("It is Velmora.", "Velmora", Match.CONTAINS) is True
    assert is_right("", "Velmora", Match.CONTAINS) is False
