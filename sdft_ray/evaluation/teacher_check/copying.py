"""Whether a completion is copied from the demonstration rather than the model's own."""

from collections.abc import Sequence

from sdft_ray.data.copying import shared_ngrams

NUM_TOKENS = 8  # of the runs that are compared: long enough that two texts on one subject seldom share one
COPIED_SHARE = 0.8  # of a completion's runs, from which on it counts as copied


def is_copied(completion: Sequence[int], demonstration: Sequence[int]) -> bool:
    """Whether at least 80 % of the completion's runs of 8 tokens stand in the demonstration word for word.

    A completion of fewer than 8 tokens is copied if it equals the demonstration. Both are token ids [T] without the
    token that ends a turn, so the measure needs no notion of words and holds for every language.
    """
    share = shared_ngrams(completion, demonstration, NUM_TOKENS)
    if share is None:
        return len(completion) > 0 and tuple(completion) == tuple(demonstration)
    return share >= COPIED_SHARE
