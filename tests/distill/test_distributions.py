"""Logprobs from logits, and sums over the vocabulary at the edges of floating point.

Legend: T tokens, V vocabulary.
"""

import math

import pytest
import torch
from torch import Tensor

from sdft_ray.distill.distributions import entropy, gather_logprobs, log_softmax_at

NUM_TOKENS, NUM_VOCAB = 5, 7


def make_logits(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = 2.0 * torch.randn(NUM_TOKENS, NUM_VOCAB, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_()


def test_the_entropy_equals_its_definition_in_float64():
    logprobs = make_logits().log_softmax(-1)
    for t in range(NUM_TOKENS):
        p = logprobs[t].exp().tolist()
        assert entropy(logprobs)[t].item() == pytest.approx(-sum(x * math.log(x) for x in p), abs=1e-12)


@pytest.mark.parametrize("nothing", [-math.inf, -1e4])
def test_a_token_without_probability_adds_nothing_to_the_entropy(nothing):
    logits = make_logits(torch.float32).detach()
    logits[:, 2] = nothing
    logits.requires_grad_()
    value = entropy(logits.log_softmax(-1))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_logprobs_of_bf16_logits_are_fp32_and_normalised():
    logits = make_logits(torch.bfloat16)
    logprobs = log_softmax_at(logits, 0.7, NUM_VOCAB)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, (logits.float() / 0.7).log_softmax(-1))
    torch.testing.assert_close(logprobs.exp().sum(-1), torch.ones(NUM_TOKENS))


def test_a_temperature_equals_scaled_logits():
    logits = make_logits()
    torch.testing.assert_close(log_softmax_at(logits, 0.5, NUM_VOCAB), log_softmax_at(2.0 * logits, 1.0, NUM_VOCAB))


def test_padded_vocabulary_rows_hold_no_probability_and_get_no_gradient():
    logits = make_logits().detach()
    padded = torch.cat([logits, torch.full((NUM_TOKENS, 3), 50.0, dtype=logits.dtype)], -1).requires_grad_()
    logprobs = log_softmax_at(padded, 1.0, NUM_VOCAB)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1))
    logprobs[:, 0].sum().backward()
    assert (padded.grad[:, NUM_VOCAB:] == 0).all()


@pytest.mark.parametrize("num_vocab", [0, NUM_VOCAB + 1])
def test_a_vocabulary_the_logits_do_not_have_is_refused(num_vocab):
    with pytest.raises(ValueError, match=f"num_vocab={num_vocab}"):
        log_softmax_at(make_logits(), 1.0, num_vocab)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature="):
        log_softmax_at(make_logits(), temperature, NUM_VOCAB)


def test_the_logprob_of_the_written_token_is_gathered_per_position():
    logprobs = make_logits().log_softmax(-1)
    token_ids = torch.tensor([0, 6, 3, 3, 1])
    assert gather_logprobs(logprobs, token_ids).tolist() == [
        logprobs[t, v].item() for t, v in enumerate(token_ids.tolist())
    ]


def test_a_missing_token_is_refused_instead_of_pairing_tokens_with_wrong_positions():
    with pytest.raises(ValueError, match="one row of logprobs per completion token"):
        gather_logprobs(make_logits().log_softmax(-1), torch.tensor([0, 6, 3, 3]))
