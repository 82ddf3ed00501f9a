"""The teacher loss from logits: masks, microbatches, temperature and padding against closed forms.

Legend: T tokens, V vocabulary, H hidden size. What the estimators estimate: test_reduction.py; token targets:
test_loss_token_targets.py.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sdft_ray.distill.divergence import LossSettings
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.distill.reference_loss import teacher_loss
from sdft_ray.learner.schedule import token_weights

NUM_VOCAB, HIDDEN_SIZE = 6, 4
LENGTHS = [5, 2, 4, 3]  # the second sequence is shorter than the 3 skipped tokens: nothing of it counts
SKIPPED = 3
ESTIMATORS = ["analytic", "sampled_token", "rao_blackwell"]
DIVERGENCES = ["reverse_kl", "forward_kl", "jsd"]


def settings(**changes: Any) -> LossSettings:
    chosen: dict[str, Any] = {
        "divergence": "reverse_kl",
        "jsd_beta": 0.3,
        "estimator": "analytic",
        "temperature": 1.0,
        "mismatch": "none",
    }
    return LossSettings(**(chosen | changes))


def microbatch(lengths: list[int] = LENGTHS, mode: str = "sequence_mean") -> dict[str, Tensor]:
    """Packed float64 inputs, the first SKIPPED tokens of every sequence not counted."""
    generator = torch.Generator().manual_seed(1)
    num_tokens = sum(lengths)
    counted = [[position >= SKIPPED for position in range(length)] for length in lengths]
    weights = token_weights([sum(flags) for flags in counted], mode, len(lengths))
    flat = [w * flag for w, flags in zip(weights, counted, strict=True) for flag in flags]
    return {
        "student_logits": torch.randn(num_tokens, NUM_VOCAB, generator=generator, dtype=torch.float64),
        "teacher_logits": torch.randn(num_tokens, NUM_VOCAB, generator=generator, dtype=torch.float64),
        "token_ids": torch.randint(NUM_VOCAB, (num_tokens,), generator=generator),
        "token_weights": torch.tensor(flat, dtype=torch.float64),
        "sequence_ids": torch.tensor([i for i, length in enumerate(lengths) for _ in range(length)], dtype=torch.long),
        "sampler_logprobs": -2.0 * torch.rand(num_tokens, generator=generator, dtype=torch.float64) - 0.5,
    }


def loss_and_gradient(
    batch: dict[str, Tensor], chosen: LossSettings, num_vocab: int = NUM_VOCAB
) -> tuple[LossOutput, Tensor]:
    student_logits = batch["student_logits"].detach().clone().requires_grad_()
    output = teacher_loss(**(batch | {"student_logits": student_logits}), settings=chosen, num_vocab=num_vocab)
    (gradient,) = torch.autograd.grad(output.loss, student_logits)
    return output, gradient


def test_the_analytic_loss_is_the_mean_over_sequences_of_the_mean_over_counted_tokens():
    batch = microbatch()
    output, gradient = loss_and_gradient(batch, settings())
    log_p, log_q = batch["student_logits"].log_softmax(-1), batch["teacher_logits"].log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    closed_form = log_p.exp() * ((log_p - log_q) - kl[:, None])
    # Of lengths 5, 2, 4, 3 the counted tokens are 3 and 4 of the first sequence and 10 of the third.
    expected = (kl[3:5].mean() + kl[10:11].mean()) / len(LENGTHS)
    torch.testing.assert_close(output.loss, expected, rtol=0, atol=1e-12)
    expected_gradient = torch.zeros_like(gradient)
    expected_gradient[3:5] = closed_form[3:5] / (2 * len(LENGTHS))
    expected_gradient[10] = closed_form[10] / len(LENGTHS)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


def test_the_metrics_cover_every_token_and_are_detached():
    batch = microbatch()
    for estimator in ESTIMATORS:
        output, _ = loss_and_gradient(batch, settings(estimator=estimator))
        log_p, log_q = batch["student_logits"].log_softmax(-1), batch["teacher_logits"].log_softmax(-1)
        rows = torch.arange(sum(LENGTHS))
        expected = {
            "divergence": (log_p.exp() * (log_p - log_q)).sum(-1),
            "student_logprobs": log_p[rows, batch["token_ids"]],
            "teacher_logprobs": log_q[rows, batch["token_ids"]],
            "student_entropy": -(log_p.exp() * log_p).sum(-1),
            "teacher_entropy": -(log_q.exp() * log_q).sum(-1),
            "correction": torch.ones(sum(LENGTHS), dtype=torch.float64),
        }
        for name, value in expected.items():
            actual = getattr(output, name)
            torch.testing.assert_close(actual, value, rtol=0, atol=1e-12)
            assert not actual.requires_grad


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_direction_follows_the_settings(divergence):
    batch = microbatch()
    output, _ = loss_and_gradient(batch, settings(divergence=divergence))
    p, q = batch["student_logits"].softmax(-1), batch["teacher_logits"].softmax(-1)
    m = 0.7 * p + 0.3 * q
    expected = {
        "reverse_kl": (p * (p / q).log()).sum(-1),
        "forward_kl": (q * (q / p).log()).sum(-1),
        "jsd": (0.3 * q * (q / m).log() + 0.7 * p * (p / m).log()).sum(-1),
    }[divergence]
    torch.testing.assert_close(output.divergence, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(output.loss, (batch["token_weights"] * expected).sum(), rtol=0, atol=1e-12)


def split_microbatch(batch: dict[str, Tensor], sequences: list[int]) -> dict[str, Tensor]:
    rows = torch.cat([(batch["sequence_ids"] == sequence).nonzero()[:, 0] for sequence in sequences])
    part = {name: tensor[rows] for name, tensor in batch.items()}
    part["sequence_ids"] = part["sequence_ids"].unique_consecutive(return_inverse=True)[1]
    return part


@pytest.mark.parametrize("split", [[[0], [1], [2], [3]], [[0, 1, 2], [3]], [[2, 1], [3, 0]], [[1], [0, 3, 2]]])
@pytest.mark.parametrize("mode", ["sequence_mean", "token_mean"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_microbatch_gradients_add_up_to_that_of_one_big_batch(estimator, mode, split):
    generator = torch.Generator().manual_seed(2)
    batch = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in microbatch([5, 2, 7, 4], mode).items()
    }
    batch["hidden_states"] = torch.randn(len(batch["token_ids"]), HIDDEN_SIZE, generator=generator)
    head = torch.randn(HIDDEN_SIZE, NUM_VOCAB, generator=generator)
    chosen = settings(estimator=estimator, mismatch="sequence")

    def head_gradient(parts: list[dict[str, Tensor]]) -> Tensor:
        weight = head.clone().requires_grad_()
        for part in parts:
            inputs = {name: tensor for name, tensor in part.items() if name != "hidden_states"}
            inputs["student_logits"] = part["hidden_states"] @ weight
            teacher_loss(**inputs, settings=chosen, num_vocab=NUM_VOCAB).loss.backward()
        return weight.grad

    whole = head_gradient([batch])
    parts = head_gradient([split_microbatch(batch, sequences) for sequences in split])
    assert whole.abs().max() > 1e-2
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("mismatch", ["none", "sequence", "token"])
@pytest.mark.parametrize("lengths", [[3, 1, 2], []])
def test_a_microbatch_without_counted_tokens_has_loss_and_gradient_exactly_zero(estimator, mismatch, lengths):
    output, gradient = loss_and_gradient(microbatch(lengths), settings(estimator=estimator, mismatch=mismatch))
    assert output.loss.item() == 0.0
    assert gradient.shape == (sum(lengths), NUM_VOCAB)
    assert (gradient == 0).all()
    assert (output.correction == 1).all()


@pytest.mark.parametrize("weird", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["student_logits", "teacher_logits"])
@pytest.mark.parametrize("width", [1, NUM_VOCAB])
@pytest.mark.parametrize("chosen", [settings(estimator=name, mismatch="sequence") for name in ESTIMATORS])
def test_weird_logits_where_nothing_counts_leave_loss_and_gradient_untouched(chosen, width, side, weird):
    clean = microbatch()
    expected, expected_gradient = loss_and_gradient(clean, chosen)
    # The second and last sequence count nothing; the teacher may be weird before counted tokens too.
    unused = [5, 6, 11, 12, 13] + ([0, 1, 2] if side == "teacher_logits" else [])
    batch = {name: tensor.clone() for name, tensor in clean.items()}
    for row in unused:
        batch[side][row, :width] = weird
    output, gradient = loss_and_gradient(batch, chosen)
    torch.testing.assert_close(output.loss, expected.loss, rtol=0, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=0)
    assert (gradient[unused[:5]] == 0).all()


@pytest.mark.parametrize("divergence", ["forward_kl", "jsd"])
def test_weird_logits_where_nothing_counts_are_harmless_in_every_direction(divergence):
    batch = microbatch()
    expected, expected_gradient = loss_and_gradient(batch, settings(divergence=divergence))
    batch["student_logits"][0], batch["teacher_logits"][1, 0] = math.nan, -math.inf
    output, gradient = loss_and_gradient(batch, settings(divergence=divergence))
    torch.testing.assert_close(output.loss, expected.loss, rtol=0, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=0)


def test_weird_logits_at_a_counted_token_are_not_hidden():
    batch = microbatch()
    batch["student_logits"][3] = math.nan
    output, _ = loss_and_gradient(batch, settings())
    assert output.loss.isnan()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("mismatch", ["sequence", "token"])
def test_a_correction_multiplies_the_weights_and_is_not_differentiated(mismatch, estimator):
    batch = microbatch([5, 2, 7, 4])
    output, gradient = loss_and_gradient(batch, settings(mismatch=mismatch, estimator=estimator))
    assert output.correction.unique().numel() >= 3
    by_hand = batch | {"token_weights": batch["token_weights"] * output.correction}
    expected, expected_gradient = loss_and_gradient(by_hand, settings(estimator=estimator))
    torch.testing.assert_close(output.loss, expected.loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


def test_the_correction_is_clipped_at_two_before_it_is_averaged():
    batch = microbatch([5])
    output, _ = loss_and_gradient(batch, settings())
    # The two counted tokens get the ratios 8 and 0.5: (2 + 0.5) / 2.
    batch["sampler_logprobs"][3:] = output.student_logprobs[3:] - torch.tensor([8.0, 0.5]).log()
    output, _ = loss_and_gradient(batch, settings(mismatch="sequence"))
    assert output.correction.tolist() == pytest.approx([1.25] * 5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_temperature_divides_the_logits_of_both_sides(estimator):
    batch = microbatch()
    scaled = batch | {name: batch[name] / 0.5 for name in ("student_logits", "teacher_logits")}
    output, gradient = loss_and_gradient(batch, settings(temperature=0.5, estimator=estimator))
    expected, expected_gradient = loss_and_gradient(scaled, settings(estimator=estimator))
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(gradient, expected_gradient / 0.5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_padded_vocabulary_rows_count_on_neither_side(divergence):
    batch = microbatch()
    num_tokens = sum(LENGTHS)
    padded = dict(batch)
    for side, num_rows in (("student_logits", 2), ("teacher_logits", 5)):
        rows = torch.full((num_tokens, num_rows), 30.0, dtype=torch.float64)
        padded[side] = torch.cat([batch[side], rows], -1)
    expected, expected_gradient = loss_and_gradient(batch, settings(divergence=divergence))
    output, gradient = loss_and_gradient(padded, settings(divergence=divergence))
    for name in ("loss", "divergence", "student_entropy", "teacher_entropy", "teacher_logprobs"):
        torch.testing.assert_close(getattr(output, name), getattr(expected, name), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient[:, :NUM_VOCAB], expected_gradient, rtol=0, atol=1e-12)
    assert (gradient[:, NUM_VOCAB:] == 0).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(estimator):
    batch = microbatch()
    batch = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
    output, gradient = loss_and_gradient(
        batch | {"teacher_logits": batch["student_logits"]}, settings(estimator=estimator)
    )
    assert output.divergence.abs().max() < 1e-6
    assert gradient.abs().max() < 1e-6


def test_no_gradient_reaches_the_teacher():
    batch = microbatch()
    student_logits = batch["student_logits"].requires_grad_()
    teacher_logits = batch["teacher_logits"].requires_grad_()
    for estimator in ESTIMATORS:
        output = teacher_loss(**batch, settings=settings(estimator=estimator), num_vocab=NUM_VOCAB)
        output.loss.backward()
    assert student_logits.grad is not None
    assert teacher_logits.grad is None


def test_extreme_bf16_logits_give_finite_losses_and_gradients():
    batch = microbatch()
    for side, sign in (("student_logits", 1.0), ("teacher_logits", -1.0)):
        batch[side] = (sign * 1e4 * batch[side]).bfloat16()
    for estimator in ESTIMATORS:
        output, gradient = loss_and_gradient(batch, settings(estimator=estimator))
        assert output.loss.isfinite()
        assert output.divergence.dtype == torch.float32
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["student_logits", "token_weights", "sequence_ids", "sampler_logprobs"])
def test_a_tensor_that_would_broadcast_is_refused_by_name(name):
    batch = microbatch()
    with pytest.raises(ValueError, match=f"{name} has shape"):
        loss_and_gradient(batch | {name: batch[name][:1]}, settings())


def test_a_vocabulary_the_teacher_does_not_have_is_refused():
    batch = microbatch()
    with pytest.raises(ValueError, match="num_vocab=6"):
        loss_and_gradient(batch | {"teacher_logits": batch["teacher_logits"][:, :5]}, settings())
