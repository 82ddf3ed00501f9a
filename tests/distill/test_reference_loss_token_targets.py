"""Token targets from logits, without a teacher, against closed forms.

Legend: T tokens, V vocabulary.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sdft_ray.distill.reduction import LossOutput
from sdft_ray.distill.reference_loss import token_loss

NUM_VOCAB = 6
WEIGHTS = [0.0, 0.25, 0.0, 0.5, 0.0]


def microbatch(weights: list[float] = WEIGHTS) -> dict[str, Tensor]:
    """Packed float64 inputs with the given weight at each token."""
    generator = torch.Generator().manual_seed(1)
    return {
        "student_logits": torch.randn(len(weights), NUM_VOCAB, generator=generator, dtype=torch.float64),
        "token_ids": torch.randint(NUM_VOCAB, (len(weights),), generator=generator),
        "token_weights": torch.tensor(weights, dtype=torch.float64),
    }


def loss_and_gradient(batch: dict[str, Tensor], target: Any) -> tuple[LossOutput, Tensor]:
    student_logits = batch["student_logits"].detach().clone().requires_grad_()
    output = token_loss(
        student_logits=student_logits,
        token_ids=batch["token_ids"],
        token_weights=batch["token_weights"],
        target=target,
        temperature=1.0,
        num_vocab=NUM_VOCAB,
    )
    (gradient,) = torch.autograd.grad(output.loss, student_logits)
    return output, gradient


@pytest.mark.parametrize("target", ["nll", "dft"])
@pytest.mark.parametrize("num_tokens", [5, 0])
def test_token_targets_without_counted_tokens_have_loss_and_gradient_exactly_zero(target, num_tokens):
    output, gradient = loss_and_gradient(microbatch([0.0] * num_tokens), target)
    assert output.loss.item() == 0.0
    assert (gradient == 0).all()


def test_nll_is_the_mean_negative_logprob_with_gradient_p_minus_one_hot():
    batch = microbatch()
    output, gradient = loss_and_gradient(batch, "nll")
    logprobs = batch["student_logits"].log_softmax(-1)
    nll = -logprobs[torch.arange(len(WEIGHTS)), batch["token_ids"]]
    one_hot = torch.nn.functional.one_hot(batch["token_ids"], NUM_VOCAB)
    torch.testing.assert_close(output.loss, 0.25 * nll[1] + 0.5 * nll[3], rtol=0, atol=1e-12)
    torch.testing.assert_close(
        gradient, batch["token_weights"][:, None] * (logprobs.exp() - one_hot), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(output.divergence, nll, rtol=0, atol=1e-12)
    torch.testing.assert_close(output.teacher_logprobs, output.student_logprobs, rtol=0, atol=0)
    torch.testing.assert_close(output.teacher_entropy, output.student_entropy, rtol=0, atol=0)


def test_dft_weighs_the_nll_with_the_probability_of_the_token_without_differentiating_it():
    batch = microbatch()
    nll, nll_gradient = loss_and_gradient(batch, "nll")
    dft, gradient = loss_and_gradient(batch, "dft")
    probability = nll.student_logprobs.exp()
    torch.testing.assert_close(gradient, probability[:, None] * nll_gradient, rtol=0, atol=1e-12)
    expected = (batch["token_weights"] * probability * nll.divergence).sum()
    torch.testing.assert_close(dft.loss, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(dft.divergence, nll.divergence, rtol=0, atol=0)


def test_token_targets_respect_temperature_and_padding():
    batch = microbatch()
    padding = torch.full((len(WEIGHTS), 3), 30.0, dtype=torch.float64)
    output = token_loss(
        student_logits=torch.cat([batch["student_logits"], padding], -1),
        token_ids=batch["token_ids"],
        token_weights=batch["token_weights"],
        target="nll",
        temperature=2.0,
        num_vocab=NUM_VOCAB,
    )
    scaled = batch | {"student_logits": batch["student_logits"] / 2.0}
    torch.testing.assert_close(output.loss, loss_and_gradient(scaled, "nll")[0].loss)


@pytest.mark.parametrize("target", ["nll", "dft"])
def test_weird_logits_where_nothing_counts_are_harmless_for_token_targets(target):
    batch = microbatch()
    expected, expected_gradient = loss_and_gradient(batch, target)
    batch["student_logits"][0], batch["student_logits"][2, 0] = math.nan, math.inf
    output, gradient = loss_and_gradient(batch, target)
    torch.testing.assert_close(output.loss, expected.loss, rtol=0, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=0)


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="target='sft' is unknown"):
        loss_and_gradient(microbatch(), "sft")


def test_weights_of_another_length_than_the_tokens_are_refused():
    batch = microbatch()
    with pytest.raises(ValueError, match="token_weights has shape"):
        loss_and_gradient(batch | {"token_weights": batch["token_weights"][:1]}, "nll")


def test_tokens_of_another_length_than_the_logits_are_refused():
    for num_rows in (1, 6):
        with pytest.raises(ValueError, match="student_logits has shape"):
            loss_and_gradient(microbatch() | {"student_logits": torch.zeros(num_rows, NUM_VOCAB)}, "nll")
