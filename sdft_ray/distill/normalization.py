"""What one counted token weighs in the loss of a step; plain Python, so that the driver can compute it.

Legend: B sequences of the GLOBAL batch (all ranks, all accumulation steps); n_i counted tokens of sequence i.

Each microbatch SUMS weight times term, and the sum over microbatches and ranks is the gradient of one big batch,
whatever the cut (docs/method.md).
"""

from collections.abc import Sequence
from typing import Literal


def token_weights(
    num_counted_tokens: Sequence[int], mode: Literal["sequence_mean", "token_mean"], batch_size: int
) -> list[float]:
    """The weight that each counted token of each of some sequences carries.

    Args:
        num_counted_tokens: n_i of sequences of the global batch, each >= 0: of any of them in "sequence_mean", whose
            weights are known sequence by sequence; of all B in "token_mean".
        mode: "sequence_mean" gives 1 / (B n_i), the mean over sequences of the mean over counted tokens (the
            authors' code); B includes the sequences without a counted token. "token_mean" gives 1 / sum_i
            n_i, every token alike, so that long completions weigh more.
        batch_size: B.

    Returns:
        Weights in [0, 1], one a sequence; 0.0 for a sequence without a counted token. Over the batch the counted
        tokens' weights add up to 1 in "token_mean", and to the share of sequences with a counted token in
        "sequence_mean".

    Raises:
        ValueError: a count is negative, the mode is unknown, or "token_mean" lacks a sequence.
    """
    negative = [count for count in num_counted_tokens if count < 0]
    if negative:
        raise ValueError(f"num_counted_tokens holds {negative[0]}: a count of tokens is at least 0")
    match mode:
        case "sequence_mean":
            return [1.0 / (batch_size * count) if count else 0.0 for count in num_counted_tokens]
        case "token_mean":
            if len(num_counted_tokens) != batch_size:
                raise ValueError(f"token_mean needs all {batch_size} sequences, not {len(num_counted_tokens)} of them")
            total = sum(num_counted_tokens)
            return [1.0 / total if count else 0.0 for count in num_counted_tokens]
        case _:
            raise ValueError(f"mode={mode!r} is unknown: choose 'sequence_mean' or 'token_mean'")
