r"""CHOICE: the letter (A to J) a completion settles on is the answer's.

Read in this order; the first kind that is there decides, and within a kind the last one counts:

1. `<answer>B</answer>`, then `\boxed{B}`. What stands there has to be one letter, alone or with its option's text.
   Two different tags: the last. A tag that holds anything else is no answer, and nothing else is looked at.
2. "Answer: B", "the answer is (B)", "**Answer:** B", "the correct option is B". "Answer: B or C" is no answer.
3. A completion that is one letter or begins with one as options do: "B", "(B)", "B.", "B) 18", "B: 18".
4. "(B)" anywhere, as long as no other letter stands in parentheses: more than one is a list, not an answer.
"""

import re
import unicodedata

from sdft_ray.evaluation.scorers.marked import marked_answer
from sdft_ray.evaluation.scorers.score import Gold, Score

_SAID = re.compile(
    r"\b(?:answer|option|choice)[ \t*_]*(?:is|:|=|\n)[\s*_:]*(?:option\s|choice\s)?[(\[]?"
    r"(?P<letter>[A-J])(?:[)\]:.](?!\w)|(?=[*_]*\s*(?:$|[,;!\n]))|(?=\s+(?:because|since|as|which)\b))"
    r"(?!\s*(?:,|/|&|or\b|and\b)\s*[(\[]?[A-J]\b)",
    re.IGNORECASE,
)
_ALONE = re.compile(r"[(\[*_]*(?:option\s)?(?P<letter>[A-J])[)\]*_.:]*", re.IGNORECASE)
_OPTION = re.compile(r"[(\[*_]*(?P<letter>[A-J])[)\].:](?!\w)(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_ANOTHER = re.compile(r"(?<!\w)[A-J][)\].:]|\b(?:or|and)\s+[(\[]?[A-J]\b")
_PARENTHESES = re.compile(
    r"(?<![^\s*_\"'])\((?P<letter>[A-J])\)(?=[\s*_.,;:!?\"']|$)(?!\s*(?:,|/|or\b|and\b)\s*[A-J]\b)"
)  # a word of its own: no (E)-but-2-ene, and no branch of a molecule, as in CC(C)O


def score_choice(completion: str, gold: Gold) -> Score:
    """Whether the completion settles on the answer's letter."""
    letter = chosen_letter(completion)
    return Score(letter == gold_letter(gold.answer), letter)


def chosen_letter(completion: str) -> str:
    """The letter a completion settles on, in upper case; "" where there is none."""
    text = unicodedata.normalize("NFKC", completion)
    marked = marked_answer(text)
    if marked is not None:
        return _one_option(marked)
    said = [found["letter"] for found in _SAID.finditer(text)]
    if said:
        return said[-1].upper()
    if letter := _one_option(text):
        return letter
    listed = {found["letter"] for found in _PARENTHESES.finditer(text)}
    return listed.pop() if len(listed) == 1 else ""


def gold_letter(answer: str) -> str:
    """The letter of an answer.

    Raises:
        ValueError: it is not one letter from A to J.
    """
    letter = answer.strip().upper()
    if not re.fullmatch("[A-J]", letter):
        raise ValueError(f"{answer!r} is not a letter from A to J")
    return letter


def _one_option(text: str) -> str:
    """The letter of a text that is one option; "" where it is none, or lists several."""
    text = text.strip()
    alone = _ALONE.fullmatch(text)
    if alone:
        return alone["letter"].upper()
    option = _OPTION.match(text)
    return option["letter"].upper() if option and not _ANOTHER.search(option["rest"]) else ""
