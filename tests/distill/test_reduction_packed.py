"""Sums within packed sequences against loops. Legend: T tokens."""

import pytest
import torch

from sdft_ray.distill.reduction import sequence_sum, sum_of_later

SEQUENCE_IDS = [0, 0, 0, 2, 3, 3]
VALUES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


def test_a_sequence_sum_stands_at_every_token_of_the_sequence():
    sums = sequence_sum(torch.tensor(VALUES), torch.tensor(SEQUENCE_IDS))
    assert sums.tolist() == [7.0, 7.0, 7.0, 8.0, 48.0, 48.0]
    assert sums.dtype == torch.float32


def test_later_tokens_are_those_after_it_in_the_same_sequence():
    sums = sum_of_later(torch.tensor(VALUES), torch.tensor(SEQUENCE_IDS))
    assert sums.tolist() == [6.0, 4.0, 0.0, 0.0, 32.0, 0.0]


def test_what_one_sequence_adds_does_not_blur_the_next():
    values = torch.tensor([1e8, 1e8, 1e-3, 2e-3])
    ids = torch.tensor([0, 0, 1, 1])
    assert sequence_sum(values, ids)[2].item() == pytest.approx(3e-3, rel=1e-4)
    assert sum_of_later(values, ids)[2].item() == pytest.approx(2e-3, rel=1e-4)


def test_booleans_are_counted_in_whole_numbers():
    counted = torch.tensor([True, False, True, False, True, True])
    assert sequence_sum(counted, torch.tensor(SEQUENCE_IDS)).tolist() == [2, 2, 2, 0, 2, 2]
    assert sum_of_later(counted, torch.tensor(SEQUENCE_IDS)).tolist() == [1, 1, 0, 0, 1, 0]


def test_an_empty_microbatch_has_empty_sums():
    nothing = torch.zeros(0)
    ids = torch.zeros(0, dtype=torch.long)
    assert sequence_sum(nothing, ids).shape == sum_of_later(nothing, ids).shape == (0,)
