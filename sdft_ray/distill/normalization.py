"""What one counted token weighs in the loss of a step; plain Python, so that the driver can compute it.

Legend: B sequences of the GLOBAL batch (all ranks, all accumulation steps); n_i counted tokens of sequence i.

The weights are computed once, before the batch is cut into microbatches. Each microbatch then SUMS weight
times term, and the sum over microbatches and ranks is the gradient of one big batch, whatever the cut
(METHOD.md, 2.2).
"""

from collections.abc import Sequence
from typing import Literal


def token_weights(num_counted_tokens: Sequence[int], mode: Literal["sequence_mean", "token_mean"]) -> list[float]:
    """The weight that each counted token of each sequence carries.

    Args:
        num_counted_tokens: [B] n_i of every sequence of the global batch, each >= 0.
        mode: "sequence_mean" gives 1 / (B n_i), the mean over sequences of the mean over counted tokens (the
            authors' code); B includes the sequences without a counted token. "token_mean" gives 1 / sum_i
            n_i, every token alike, so that long completions weigh more.

    Returns:
        [B] weights in [0, 1]; 0.0 for a sequence without a counted token. The counted tokens' weights add up
        to 1 in "token_mean", and to the share of sequences with a counted token in "sequence_mean".

    Raises:
        ValueError: a count is negative or the mode is unknown.
    """
    negative = [count for count in num_counted_tokens if count < 0]
    if negative:
        raise ValueError(f"num_counted_tokens holds {negative[0]}: a count of tokens is at least 0")
    match mode:
        case "sequence_mean":
            num_sequences = len(num_counted_tokens)
            return [1.0 / (num_sequences * count) if count else 0.0 for count in num_counted_tokens]
        case "token_mean":
            total = sum(num_counted_tokens)
            return [1.0 / total if count else 0.0 for count in num_counted_tokens]
        case _:
            raise ValueError(f"mode={mode!r} is unknown: choose 'sequence_mean' or 'token_mean'")
