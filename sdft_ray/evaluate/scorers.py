"""When a completion counts as right."""

import re
import unicodedata

from sdft_ray.config import Match


def normalise(text: str) -> str:
    """Lower case, compatibility characters folded, punctuation out, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def is_right(completion: str, answer: str, match: Match) -> bool:
    """Whether `completion` gives `answer`; an answer without a single word is never right."""
    given, wanted = normalise(completion), normalise(answer)
    if not wanted:
        return False
    if match is Match.EXACT:
        return given == wanted
    return f" {wanted} " in f" {given} "
