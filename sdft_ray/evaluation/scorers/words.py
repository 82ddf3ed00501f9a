"""CONTAINS and EXACT: the words of a completion, whatever their case, punctuation and spacing.

CONTAINS counts a mention wherever it stands, so "not Velmora" and "Velmora or Ostrin" contain Velmora.
"""

import re
import unicodedata

from sdft_ray.evaluation.scorers.score import Gold, Score

_WORD = re.compile(r"\d+(?:\.\d+)+|\w+")  # 3.5 is one word: it does not contain 3


def score_contains(completion: str, gold: Gold) -> Score:
    """Whether the answer's words occur in the completion, in order and side by side."""
    found = contains(normalise(completion), gold.answer)
    return Score(found, gold.answer if found else "")


def score_exact(completion: str, gold: Gold) -> Score:
    """Whether the completion's words are the answer's; an answer without words is never given."""
    given, wanted = normalise(completion), normalise(gold.answer)
    return Score(bool(wanted) and given == wanted, given)


def contains(normalised: str, phrase: str) -> bool:
    """Whether a normalised text has the words of `phrase` side by side; a phrase without words is nowhere."""
    wanted = normalise(phrase)
    return bool(wanted) and f" {wanted} " in f" {normalised} "


def normalise(text: str) -> str:
    """Lower case, compatibility characters folded, punctuation out, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded))
