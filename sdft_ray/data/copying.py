"""What a completion shares word for word with the demonstration that only the teacher saw.

A teacher whose answer repeats the demonstration word for word teaches recitation; a student that does so off the
prompt alone has memorised it. The share tells both early: it should grow slower than the accuracy.
"""

from collections.abc import Sequence

from sdft_ray.records import Rollout

NUM_TOKENS = 4  # shorter runs of tokens agree by chance: names, set phrases, the end of a sentence


def copied_share(rollout: Rollout, demonstration_tokens: Sequence[int]) -> float:
    """The share of the completion's n-grams of `NUM_TOKENS` tokens that occur verbatim in the demonstration.

    Tokens that end a turn belong to neither text: the demonstration's last token, and the completion's unless it was
    cut. Each n-gram of the completion counts, also a repeated one. A completion shorter than an n-gram is one n-gram
    of its own length; one without a token has copied nothing.
    """
    completion = rollout.completion_tokens if rollout.truncated else rollout.completion_tokens[:-1]
    if not completion:
        return 0.0
    share = shared_ngrams(completion, demonstration_tokens[:-1], min(NUM_TOKENS, len(completion)))
    assert share is not None
    return share


def shared_ngrams(completion: Sequence[int], demonstration: Sequence[int], num_tokens: int) -> float | None:
    """The share of the completion's n-grams of `num_tokens` tokens that occur in the demonstration.

    Each n-gram of the completion counts, also a repeated one. None where it is shorter than one.
    """
    ngrams = _ngrams(completion, num_tokens)
    known = set(_ngrams(demonstration, num_tokens))
    return sum(ngram in known for ngram in ngrams) / len(ngrams) if ngrams else None


def _ngrams(tokens: Sequence[int], num_tokens: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[start : start + num_tokens]) for start in range(len(tokens) - num_tokens + 1)]
