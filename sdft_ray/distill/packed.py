"""Sums within the sequences of a packed microbatch.

Legend: T tokens of all completions of the microbatch laid end to end, without padding.
`sequence_ids` [T] long is sorted and equal exactly for the tokens of one sequence; gaps in the numbering are
allowed.

Prefix sums instead of scatter-adds: they need neither the number of sequences (a wait for the GPU) nor
atomics, whose order of addition changes from run to run. They are held in fp64, so that what one sequence
adds does not blur the next.
"""

import torch
from torch import Tensor


def sequence_sum(values: Tensor, sequence_ids: Tensor) -> Tensor:
    """The sum of the values over the whole sequence each token belongs to.

    Args:
        values: [T], floating or integer (an integer sum is exact).
        sequence_ids: [T] long, sorted.

    Returns:
        [T], the same number at every token of a sequence; dtype of `values`, int64 from bool.
    """
    prefix = _prefix_sums(values)
    starts = torch.searchsorted(sequence_ids, sequence_ids)
    ends = torch.searchsorted(sequence_ids, sequence_ids, right=True)
    return (prefix[ends] - prefix[starts]).to(_sum_dtype(values))


def sum_of_later(values: Tensor, sequence_ids: Tensor) -> Tensor:
    """The sum of the values at the later tokens of the same sequence, the token itself left out.

    Args:
        values: [T], floating or integer (an integer sum is exact).
        sequence_ids: [T] long, sorted.

    Returns:
        [T], 0 at the last token of a sequence (up to fp64 rounding); dtype of `values`, int64 from bool.
    """
    prefix = _prefix_sums(values)
    ends = torch.searchsorted(sequence_ids, sequence_ids, right=True)
    return (prefix[ends] - prefix[1:]).to(_sum_dtype(values))


def _prefix_sums(values: Tensor) -> Tensor:
    """[T + 1]: entry t is the sum of the first t values."""
    dtype = torch.float64 if values.is_floating_point() else torch.int64
    return torch.cat([torch.zeros(1, dtype=dtype, device=values.device), values.to(dtype).cumsum(0)])


def _sum_dtype(values: Tensor) -> torch.dtype:
    return values.dtype if values.is_floating_point() else torch.int64
