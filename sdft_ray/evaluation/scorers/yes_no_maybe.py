"""YES_NO_MAYBE: the completion decides as the answer does.

Read in this order: what stands in the last <answer> tag (or box); the last "answer: yes", "the answer is no"; the first
word; the only one of the three words that occurs at all. "Yes or no" and "yes and no" decide nothing, in any place.
"""

import re
import unicodedata

from sdft_ray.evaluation.scorers.marked import marked_answer
from sdft_ray.evaluation.scorers.score import Gold, Score

DECISIONS = ("yes", "no", "maybe")
_DECISION = r"(?P<decision>yes|no|maybe)\b(?!\s*(?:,|/|&|or\b|and\b)\s*(?:yes|no|maybe)\b)"
_SAID = re.compile(rf"\b(?:answer|decision|conclusion)[ \t*_]*(?:is|:|=|\n)[\s*_:\"']*{_DECISION}")
_FIRST = re.compile(rf"[\s*_\"'(\[]*{_DECISION}")
_ANY = re.compile(r"\b(?:yes|no|maybe)\b")


def score_yes_no_maybe(completion: str, gold: Gold) -> Score:
    """Whether the completion decides as the answer does."""
    decision = read_decision(completion)
    return Score(decision == gold_decision(gold.answer), decision)


def read_decision(completion: str) -> str:
    """What a completion decides; "" where nothing."""
    text = unicodedata.normalize("NFKC", completion).casefold()
    marked = marked_answer(text)
    if marked is not None:
        return _first_or_only(marked)
    said = [found["decision"] for found in _SAID.finditer(text)]
    return said[-1] if said else _first_or_only(text)


def gold_decision(answer: str) -> str:
    """The decision of an answer.

    Raises:
        ValueError: it is none of `DECISIONS`.
    """
    decision = answer.strip().casefold()
    if decision not in DECISIONS:
        raise ValueError(f"{answer!r} is none of {', '.join(DECISIONS)}")
    return decision


def _first_or_only(text: str) -> str:
    first = _FIRST.match(text)
    if first:
        return first["decision"]
    named = set(_ANY.findall(text))
    return named.pop() if len(named) == 1 else ""
