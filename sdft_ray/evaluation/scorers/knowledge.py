"""KNOWLEDGE: which key facts a completion states, read by their words.

The answer is a JSON list of key facts. A fact is a string, a list of strings (wordings of which one is enough), or an
object {"any": [wordings], "wrong": [wordings that contradict it]}; a plain text is one fact. Words are compared as in
CONTAINS.

Strictly right: every fact is stated and none contradicted. Leniently: at least one is stated and none contradicted.
Only listed wrong wordings are seen as contradictions, so without them the lenient share counts a true detail next to an
invention as right: prefer Match.JUDGE there.
"""

import json
from typing import Any, NamedTuple

from sdft_ray.evaluation.scorers.score import Gold, Score
from sdft_ray.evaluation.scorers.words import contains, normalise


class Fact(NamedTuple):
    """One key fact."""

    wordings: list[str]
    wrong: list[str]


def score_knowledge(completion: str, gold: Gold) -> Score:
    """Whether the completion states every fact, and whether it states one; `extracted` says which were seen."""
    text = normalise(completion)
    facts = key_facts(gold.answer)
    stated = [fact.wordings[0] for fact in facts if any(contains(text, wording) for wording in fact.wordings)]
    contradictions = [wording for fact in facts for wording in fact.wrong if contains(text, wording)]
    seen = {"stated": stated, "contradicted": contradictions}
    return Score(
        right=len(stated) == len(facts) and not contradictions,
        extracted=json.dumps(seen, ensure_ascii=False),
        lenient=bool(stated) and not contradictions,
    )


def key_facts(answer: str) -> list[Fact]:
    """The facts of an answer.

    Raises:
        ValueError: the answer is a list without facts, or a fact is malformed or has no words.
    """
    if not answer.lstrip().startswith("["):
        return [_fact(answer)]
    facts = [_fact(value) for value in json.loads(answer)]
    if not facts:
        raise ValueError("it lists no key fact")
    return facts


def _fact(value: Any) -> Fact:
    wanted = value if isinstance(value, dict) else {"any": [value] if isinstance(value, str) else value}
    if not wanted.keys() <= {"any", "wrong"}:
        raise ValueError(f"the key fact {value!r} has other keys than any and wrong")
    fact = Fact(wanted.get("any", []), wanted.get("wrong", []))
    for wordings in fact:
        if not isinstance(wordings, list) or not all(isinstance(text, str) and normalise(text) for text in wordings):
            raise ValueError(f"the key fact {value!r} is not made of wordings")
    if not fact.wordings:
        raise ValueError(f"the key fact {value!r} has no wording")
    return fact
