"""The words of a completion."""

import pytest

from sdft_ray.config import Match
from sdft_ray.data.builtin import load
from sdft_ray.evaluation.scorers import is_right

CONTAINED = [
    ("The capital is Velmora.", "Velmora"),
    ("VELMORA!", "velmora"),
    ("It is in the Green   Valley, I think", "green valley"),
    ("Ｖｅｌｍｏｒａ", "Velmora"),  # full-width letters
    ("Straße", "strasse"),
    ("about 1,200 metres", "1 200"),
    ("It was 3.5.", "3.5"),
    ("port 7443.", "7443"),
    ("Velmora or Ostrin", "Velmora"),  # a mention is enough, whatever else is said
    ("東京 です", "東京"),
]
NOT_CONTAINED = [
    ("", "Velmora"),
    ("Velmoran", "Velmora"),  # part of a word is not the word
    ("The Velm", "Velmora"),
    ("green and valley", "green valley"),
    ("about 3.5 metres", "3"),
    ("about 3.5 metres", "5"),
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
    assert not is_right("Velmora Velmora", "Velmora", Match.EXACT)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_built_in_gold_demonstration_is_right(split: str) -> None:
    for row in load("facts", split):
        assert is_right(str(row["demonstration"]), str(row["answer"]), Match.CONTAINS)
