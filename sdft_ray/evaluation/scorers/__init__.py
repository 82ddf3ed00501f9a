"""When a completion counts as right: one function a kind, chosen through `Match`.

The file of each kind says how it reads. Every scorer takes time linear in the
completion, and finds nothing right in an empty one.
"""

from collections.abc import Callable, Sequence

from sdft_ray.config import Match
from sdft_ray.evaluation.scorers.choice import gold_letter, score_choice
from sdft_ray.evaluation.scorers.knowledge import key_facts, score_knowledge
from sdft_ray.evaluation.scorers.score import Gold, Score
from sdft_ray.evaluation.scorers.tool_call import acceptable_arguments, score_tool_call
from sdft_ray.evaluation.scorers.words import normalise, score_contains, score_exact
from sdft_ray.evaluation.scorers.yes_no_maybe import gold_decision, score_yes_no_maybe

__all__ = ["Gold", "Score", "check_gold", "is_right", "score"]

SHORTEST_ECHO = 40  # characters; a shorter text that comes back may be the answer

_SCORERS: dict[Match, Callable[[str, Gold], Score]] = {
    Match.CONTAINS: score_contains,
    Match.EXACT: score_exact,
    Match.TOOL_CALL: score_tool_call,
    Match.CHOICE: score_choice,
    Match.YES_NO_MAYBE: score_yes_no_maybe,
    Match.KNOWLEDGE: score_knowledge,
}


def score(completion: str, gold: Gold, match: Match, echoes: Sequence[str] = ()) -> Score:
    """Scores a completion by rule; `Match.JUDGE` has none, see evaluation/judge.py.

    Args:
        completion: without special tokens.
        gold: what it is held against, as `check_gold` lets it pass.
        match: how.
        echoes: texts of the prompt. Those a completion repeats word for word are taken out of it first: the format
            that a prompt asks for, with its example, is not the model's answer.
    """
    for text in map(str.strip, echoes):
        if len(text) >= SHORTEST_ECHO:
            completion = completion.replace(text, " ")
    return _SCORERS[match](completion, gold)


def is_right(completion: str, answer: str, match: Match) -> bool:
    """Whether `completion` gives `answer`; an answer that says nothing is never right."""
    return bool(score(completion, Gold(answer), match).right)


def check_gold(gold: Gold, match: Match) -> None:
    """Refuses what no completion could be held against.

    Raises:
        ValueError: with what is wrong.
    """
    if match is Match.TOOL_CALL:
        acceptable_arguments(gold)
    elif match is Match.CHOICE:
        gold_letter(gold.answer)
    elif match is Match.YES_NO_MAYBE:
        gold_decision(gold.answer)
    elif match is Match.KNOWLEDGE:
        key_facts(gold.answer)
    elif not normalise(gold.answer):
        raise ValueError(f"{gold.answer!r} has no words")
