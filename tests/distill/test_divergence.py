"""Divergences against float64 sums written out, closed-form gradients and the edges of floating point.

Legend: T tokens, V vocabulary; p student, q teacher.
"""

import math

import pytest
import torch
from torch import Tensor

from sdft_ray.distill.divergence import (
    entropy,
    forward_kl,
    gather_logprobs,
    jsd,
    log_softmax_at,
    reverse_kl,
)

NUM_TOKENS, NUM_VOCAB = 5, 7


def two_logits(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        2.0 * torch.randn(NUM_TOKENS, NUM_VOCAB, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return student.to(dtype).requires_grad_(), teacher.to(dtype).requires_grad_()


def naive_kl(left: list[float], right: list[float]) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(left, right, strict=True))


def naive_jsd(student: list[float], teacher: list[float], beta: float) -> float:
    mixture = [(1 - beta) * p + beta * q for p, q in zip(student, teacher, strict=True)]
    return beta * naive_kl(teacher, mixture) + (1 - beta) * naive_kl(student, mixture)


def test_each_divergence_equals_its_definition_in_float64():
    student, teacher = (logits.log_softmax(-1) for logits in two_logits())
    for t in range(NUM_TOKENS):
        p, q = student[t].exp().tolist(), teacher[t].exp().tolist()
        assert reverse_kl(student, teacher)[t].item() == pytest.approx(naive_kl(p, q), abs=1e-12)
        assert forward_kl(student, teacher)[t].item() == pytest.approx(naive_kl(q, p), abs=1e-12)
        assert jsd(student, teacher, 0.3)[t].item() == pytest.approx(naive_jsd(p, q, 0.3), abs=1e-12)
        assert entropy(student)[t].item() == pytest.approx(-sum(x * math.log(x) for x in p), abs=1e-12)


def test_the_gradient_of_the_reverse_kl_is_its_closed_form():
    student, teacher = two_logits()
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    kl = reverse_kl(log_p, log_q)
    (gradient,) = torch.autograd.grad(kl.sum(), student)
    torch.testing.assert_close(gradient, log_p.exp() * ((log_p - log_q) - kl[:, None]), rtol=0, atol=1e-12)


def test_the_gradient_of_the_forward_kl_is_p_minus_q():
    student, teacher = two_logits()
    (gradient,) = torch.autograd.grad(forward_kl(student.log_softmax(-1), teacher.log_softmax(-1)).sum(), student)
    torch.testing.assert_close(gradient, student.softmax(-1) - teacher.softmax(-1), rtol=0, atol=1e-12)


def test_the_gradient_of_the_jsd_passes_through_the_mixture():
    student, teacher = two_logits()
    log_q = teacher.detach().log_softmax(-1)
    assert torch.autograd.gradcheck(lambda logits: jsd(logits.log_softmax(-1), log_q, 0.3), student)


@pytest.mark.parametrize("divergence", [reverse_kl, forward_kl, lambda p, q: jsd(p, q, 0.3)])
def test_no_gradient_reaches_the_teacher(divergence):
    student, teacher = two_logits()
    divergence(student.log_softmax(-1), teacher.log_softmax(-1)).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_the_jsd_is_symmetric_at_one_half_only():
    p, q = (logits.log_softmax(-1) for logits in two_logits())
    torch.testing.assert_close(jsd(p, q, 0.5), jsd(q, p, 0.5), rtol=0, atol=1e-14)
    assert (jsd(p, q, 0.3) - jsd(q, p, 0.3)).abs().max() > 1e-3


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 1.1, math.nan])
def test_the_jsd_refuses_a_beta_at_which_it_vanishes_and_says_so(beta):
    p, q = (logits.log_softmax(-1) for logits in two_logits())
    with pytest.raises(ValueError, match="vanishes at both ends"):
        jsd(p, q, beta)


def test_equal_distributions_diverge_by_less_than_a_millionth_nat_in_fp32():
    logits = two_logits(torch.float32)[0]
    logprobs = log_softmax_at(logits, 1.0, NUM_VOCAB)
    for value in (
        reverse_kl(logprobs, logprobs),
        forward_kl(logprobs, logprobs),
        jsd(logprobs, logprobs, 0.5),
    ):
        assert value.abs().max() < 1e-6


@pytest.mark.parametrize("nothing", [-math.inf, -1e4])
@pytest.mark.parametrize("divergence", [reverse_kl, forward_kl, lambda p, q: jsd(p, q, 0.3)])
def test_a_token_without_probability_on_either_side_changes_nothing(divergence, nothing):
    student, teacher = (logits.detach().float() for logits in two_logits())
    masked_student, masked_teacher = student.clone(), teacher.clone()
    masked_student[:, 2] = masked_teacher[:, 2] = nothing
    masked_student.requires_grad_()
    keep = [v for v in range(NUM_VOCAB) if v != 2]
    student = student[:, keep].requires_grad_()

    expected = divergence(student.log_softmax(-1), teacher[:, keep].log_softmax(-1))
    expected.sum().backward()
    actual = divergence(masked_student.log_softmax(-1), masked_teacher.log_softmax(-1))
    actual.sum().backward()

    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(masked_student.grad[:, keep], student.grad)
    assert (masked_student.grad[:, 2] == 0).all()


@pytest.mark.parametrize("nothing", [-math.inf, -1e4])
def test_a_token_only_one_side_can_write_is_finite_where_the_definition_is(nothing):
    whole, one_sided = (logits.detach().float() for logits in two_logits())
    one_sided[:, 2] = nothing
    whole.requires_grad_()
    one_sided.requires_grad_()
    log_whole, log_one_sided = whole.log_softmax(-1), one_sided.log_softmax(-1)
    for student, value in (
        (one_sided, reverse_kl(log_one_sided, log_whole)),
        (one_sided, jsd(log_one_sided, log_whole, 0.3)),
        (one_sided, entropy(log_one_sided)),
        (whole, forward_kl(log_whole, log_one_sided)),
        (whole, jsd(log_whole, log_one_sided, 0.3)),
    ):
        (gradient,) = torch.autograd.grad(value.sum(), student, retain_graph=True)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_the_reverse_kl_is_infinite_where_the_teacher_forbids_what_the_student_writes():
    student, teacher = (logits.detach() for logits in two_logits())
    teacher[:, 2] = -math.inf
    assert (reverse_kl(student.log_softmax(-1), teacher.log_softmax(-1)) == math.inf).all()


def test_extreme_logits_stay_finite_in_value_and_gradient():
    student = torch.tensor([[3e4, -3e4, 0.0], [-1e4, 1e4, 1e4]], requires_grad=True)
    teacher = torch.tensor([[-3e4, 3e4, 1.0], [1e4, -1e4, 0.0]])
    log_p, log_q = log_softmax_at(student, 1.0, 3), log_softmax_at(teacher, 1.0, 3)
    for value in (reverse_kl(log_p, log_q), forward_kl(log_p, log_q), jsd(log_p, log_q, 0.5)):
        (gradient,) = torch.autograd.grad(value.sum(), student, retain_graph=True)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
    assert reverse_kl(log_p, log_q)[0].item() == pytest.approx(6e4)


@pytest.mark.parametrize("divergence", [reverse_kl, forward_kl, lambda p, q: jsd(p, q, 0.3)])
def test_bf16_logprobs_are_summed_in_fp32(divergence):
    log_p, log_q = (logits.log_softmax(-1).bfloat16() for logits in two_logits())
    value = divergence(log_p, log_q)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, divergence(log_p.float(), log_q.float()), rtol=0, atol=0)


def test_logprobs_of_bf16_logits_are_fp32_and_normalised():
    logits = two_logits(torch.bfloat16)[0]
    logprobs = log_softmax_at(logits, 0.7, NUM_VOCAB)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, (logits.float() / 0.7).log_softmax(-1))
    torch.testing.assert_close(logprobs.exp().sum(-1), torch.ones(NUM_TOKENS))


def test_a_temperature_equals_scaled_logits():
    logits = two_logits()[0]
    torch.testing.assert_close(log_softmax_at(logits, 0.5, NUM_VOCAB), log_softmax_at(2.0 * logits, 1.0, NUM_VOCAB))


def test_padded_vocabulary_rows_hold_no_probability_and_get_no_gradient():
    logits = two_logits()[0].detach()
    padded = torch.cat([logits, torch.full((NUM_TOKENS, 3), 50.0, dtype=logits.dtype)], -1).requires_grad_()
    logprobs = log_softmax_at(padded, 1.0, NUM_VOCAB)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1))
    logprobs[:, 0].sum().backward()
    assert (padded.grad[:, NUM_VOCAB:] == 0).all()


@pytest.mark.parametrize("num_vocab", [0, NUM_VOCAB + 1])
def test_a_vocabulary_the_logits_do_not_have_is_refused(num_vocab):
    with pytest.raises(ValueError, match=f"num_vocab={num_vocab}"):
        log_softmax_at(two_logits()[0], 1.0, num_vocab)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature="):
        log_softmax_at(two_logits()[0], temperature, NUM_VOCAB)


def test_the_logprob_of_the_written_token_is_gathered_per_position():
    logprobs = two_logits()[0].log_softmax(-1)
    token_ids = torch.tensor([0, 6, 3, 3, 1])
    assert gather_logprobs(logprobs, token_ids).tolist() == [
        logprobs[t, v].item() for t, v in enumerate(token_ids.tolist())
    ]


def test_a_missing_token_is_refused_instead_of_pairing_tokens_with_wrong_positions():
    with pytest.raises(ValueError, match="one row of logprobs per completion token"):
        gather_logprobs(two_logits()[0].log_softmax(-1), torch.tensor([0, 6, 3, 3]))


def test_student_and_teacher_of_different_shapes_are_refused_instead_of_broadcast():
    log_p, log_q = (logits.log_softmax(-1) for logits in two_logits())
    with pytest.raises(ValueError, match="must have one shape"):
        reverse_kl(log_p, log_q[:1])
