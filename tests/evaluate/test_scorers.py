"""When a completion is right."""

import pytest

from sdft_ray.config import Match
from sdft_ray.evaluate.scorers import is_right

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
