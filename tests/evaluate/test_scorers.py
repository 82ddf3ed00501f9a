"""When a completion is right."""

import json
from pathlib import Path

import pytest

from sdft_ray.config import Match
from sdft_ray.data.builtin import load
from sdft_ray.evaluate.scorers import gold_calls, is_right

CONTAINED = [
    ("The capital is Velmora.", "Velmora"),
    ("VELMORA!", "velmora"),
    ("It is in the Green   Valley, I think", "green valley"),
    ("Ｖｅｌｍｏｒａ", "Velmora"),  # full-width letters
    ("Straße", "strasse"),
    ("about 1,200 metres", "1 200"),
]
NOT_CONTAINED = [
    ("", "Velmora"),
    ("Velmoran", "Velmora"),  # part of a word is not the word
    ("The Velm", "Velmora"),
    ("green and valley", "green valley"),
    ("anything", ""),
    ("anything", "?!"),
]


@pytest.mark.parametrize(("completion", "answer"), CONTAINED)
def test_an_answer_counts_wherever_its_words_stand(completion: str, answer: str) -> None:
    assert is_right(completion, answer, Match.CONTAINS)


@pytest.mark.parametrize(("completion", "answer"), NOT_CONTAINED)
def test_an_answer_that_is_not_there_is_not_right(completion: str, answer: str) -> None:
    assert not is_right(completion, answer, Match.CONTAINS)
    assert not is_right(completion, answer, Match.EXACT)


def test_an_exact_match_allows_nothing_else() -> None:
    assert is_right(" velmora. ", "Velmora", Match.EXACT)
    assert not is_right("It is Velmora.", "Velmora", Match.EXACT)


def test_a_huge_completion_is_no_trouble() -> None:
    assert is_right("word " * 200_000 + "Velmora", "Velmora", Match.CONTAINS)


GOLD = '[{"Action": "find", "Action_Input": {"where": {"city": "Oslo", "near": [1, 2]}, "n": 3}}]'
RIGHT_CALLS = [
    'Thought: I look.\nAction: find\nAction Input: {"n": 3, "where": {"near": [1, 2], "city": "Oslo"}}',
    'Action: find\nAction Input: {"where": {"city": "Oslo", "near": [1, 2]}, "n": 3} and so on }',
]
WRONG_CALLS = [
    "",
    "Action: find",
    'Action: find\nAction Input: {"n": 3, "where": {"near": [1, 2], "city": "Oslo"',  # cut
    'Action: seek\nAction Input: {"n": 3, "where": {"near": [1, 2], "city": "Oslo"}}',
    'Action: find\nAction Input: {"n": 4, "where": {"near": [1, 2], "city": "Oslo"}}',
    'Action: find\nAction Input: {"n": "3", "where": {"near": [1, 2], "city": "Oslo"}}',  # a string is no number
    RIGHT_CALLS[0] + "\n" + RIGHT_CALLS[0],  # called twice
    "Action: find\nAction Input: the city",
    "Action: find\nAction Input: 3",
]


@pytest.mark.parametrize("completion", RIGHT_CALLS)
def test_a_tool_call_is_right_in_any_order_of_keys(completion: str) -> None:
    assert is_right(completion, GOLD, Match.TOOL_CALL)


@pytest.mark.parametrize("completion", WRONG_CALLS)
def test_another_tool_call_is_wrong(completion: str) -> None:
    assert not is_right(completion, GOLD, Match.TOOL_CALL)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_built_in_gold_demonstration_is_right(split: str) -> None:
    for row in load("tools", split):
        assert is_right(str(row["demonstration"]), str(row["answer"]), Match.TOOL_CALL)
    for row in load("facts", split):
        assert is_right(str(row["demonstration"]), str(row["answer"]), Match.CONTAINS)


def test_every_gold_answer_of_the_official_tool_use_set_is_right() -> None:
    path = Path(__file__).parents[3] / "shared" / "data" / "tooluse" / "official_eval97.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    right = 0
    for row in rows:
        calls = row["golden_answer"]
        completion = "\n".join(f"Action: {call['Action']}\nAction Input: {call['Action_Input']}" for call in calls)
        right += is_right(completion, json.dumps(calls), Match.TOOL_CALL)
    assert (right, len(rows)) == (97, 97)


@pytest.mark.parametrize("answer", ["", "3", '{"Action": "find"}', '{"Action": "find", "Action_Input": "no"}'])
def test_an_answer_that_is_no_call_is_an_error(answer: str) -> None:
    with pytest.raises(ValueError):
        gold_calls(answer)
