"""Mismatch weights against numbers worked out by hand. Legend: T tokens."""

import math
from typing import Any

import pytest
import torch

from sdft_ray.distill.divergence import LossSettings
from sdft_ray.distill.reduction import mismatch_correction

# Ratios 1.5, 8 (clipped at 2), 0.5 | 0.25, 4 | 3: the first token and the last sequence are not counted.
STUDENT = torch.log(torch.tensor([0.3, 0.8, 0.1, 0.1, 0.4, 0.9]))
SAMPLER = torch.log(torch.tensor([0.2, 0.1, 0.2, 0.4, 0.1, 0.3]))
TOKEN_WEIGHTS = torch.tensor([0.0, 0.1, 0.1, 0.2, 0.2, 0.0])
SEQUENCE_IDS = torch.tensor([0, 0, 0, 1, 1, 2])


def settings(**changes: Any) -> LossSettings:
    chosen: dict[str, Any] = {
        "divergence": "reverse_kl",
        "jsd_beta": 0.5,
        "estimator": "analytic",
        "temperature": 1.0,
        "mismatch": "none",
    }
    return LossSettings(**(chosen | changes))


def correction(**changes: Any) -> list[float]:
    return mismatch_correction(STUDENT, SAMPLER, TOKEN_WEIGHTS, SEQUENCE_IDS, settings(**changes)).tolist()


def test_no_correction_is_one_everywhere():
    assert correction(mismatch="none") == [1.0] * 6


def test_a_token_correction_is_the_ratio_clipped_at_two():
    assert correction(mismatch="token") == pytest.approx([1.0, 2.0, 0.5, 0.25, 2.0, 1.0])


def test_a_sequence_correction_is_the_mean_of_clipped_ratios_of_counted_tokens():
    assert correction(mismatch="sequence") == pytest.approx([1.25, 1.25, 1.25, 1.125, 1.125, 1.0])


def test_the_clip_is_a_setting():
    assert correction(mismatch="token", mismatch_clip=5.0) == pytest.approx([1.0, 5.0, 0.5, 0.25, 4.0, 1.0])


def test_a_correction_carries_no_gradient():
    student = STUDENT.clone().requires_grad_()
    weights = mismatch_correction(student, SAMPLER, TOKEN_WEIGHTS, SEQUENCE_IDS, settings(mismatch="sequence"))
    assert not weights.requires_grad


@pytest.mark.parametrize("mismatch", ["token", "sequence"])
def test_logprobs_of_uncounted_tokens_do_not_matter(mismatch):
    sampler = SAMPLER.clone()
    sampler[0], sampler[5] = math.nan, -math.inf
    weights = mismatch_correction(STUDENT, sampler, TOKEN_WEIGHTS, SEQUENCE_IDS, settings(mismatch=mismatch))
    assert weights.tolist() == pytest.approx(correction(mismatch=mismatch))
