"""Attention over a whole pack in one call of torch's kernel for sequences of different lengths, in bf16 on GPUs.

It makes no mask and no scores in memory, and needs no plan for each new shape. The arithmetic of borders and windows is
tested on a CPU with a kernel that computes by definition. The call of the real kernel was never run, for want of a GPU:
tests/gpu/test_attention.py waits for one.

Legend: N tokens packed end to end, D size of a head, S sequences, M keys of all sequences, the common prefix S times.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.nn.attention.varlen import varlen_attn


class Borders(NamedTuple):
    """Where the queries and the keys of each sequence begin and end."""

    shared: int  # tokens of the common prefix
    lengths: list[int]  # tokens of each sequence that lie in the pack; the first one's hold the prefix
    queries: torch.Tensor  # [S + 1] int32, cumulative
    keys: torch.Tensor  # [S + 1] int32, cumulative
    most_queries: int  # of one sequence
    most_keys: int


def borders(shared: int, lengths: list[int], device: torch.device) -> Borders:
    """The borders of sequences of which all but the first see the first `shared` keys of the pack before their own."""
    num_keys = [length + (shared if index else 0) for index, length in enumerate(lengths)]
    queries, keys = (
        torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device=device) for sizes in (lengths, num_keys)
    )
    return Borders(shared, lengths, queries, keys, max(lengths), max(num_keys))


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: Borders,
    *,
    scaling: float | None,
    window: int,
    kernel: Callable[..., Any] = varlen_attn,
) -> torch.Tensor:
    """Causal attention within every sequence.

    Args:
        query: [1, heads, N, D].
        key: [1, key-value heads, N, D].
        value: [1, key-value heads, N, D].
        borders: of the pack's sequences.
        scaling: of the products; None for 1 / sqrt(D).
        window: how many tokens back a query sees, itself included; 0 for all.
        kernel: the function that computes.

    Returns:
        [1, N, heads, D].
    """
    own_query, own_key, own_value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    output: torch.Tensor = kernel(
        own_query,
        _with_prefix(own_key, borders),
        _with_prefix(own_value, borders),
        borders.queries,
        borders.keys,
        borders.most_queries,
        borders.most_keys,
        scale=scaling,
        # Tokens before and after a query that it sees; the last query of a sequence stands beside its last key.
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return output[None]


def _with_prefix(states: torch.Tensor, borders: Borders) -> torch.Tensor:
    """Keys or values [M, heads, D] of [N, heads, D], the common prefix before each sequence's own."""
    if not borders.shared or len(borders.lengths) == 1:
        return states
    prefix = states[: borders.shared]
    first, *others = states.split(borders.lengths)
    return torch.cat([first, *(part for own in others for part in (prefix, own))])
