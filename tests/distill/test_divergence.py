"""Divergences against float64 sums written out, closed-form gradients and the edges of floating point.

Legend: T tokens, V vocabulary; p student, q teacher.
"""

import math

import pytest
import torch
from torch import Tensor

from sdft_ray.config import Divergence
from sdft_ray.distill.distributions import log_softmax_at
from sdft_ray.distill.divergence import (
    DIVERGENCES,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    TokenDivergence,
    make_divergence,
)

NUM_TOKENS, NUM_VOCAB = 5, 7
REVERSE_KL, FORWARD_KL, JSD = EVERY = ReverseKL(), ForwardKL(), JensenShannon(0.3)
JSD_OF_HALF = JensenShannon(0.5)


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
        assert REVERSE_KL.value(student, teacher)[t].item() == pytest.approx(naive_kl(p, q), abs=1e-12)
        assert FORWARD_KL.value(student, teacher)[t].item() == pytest.approx(naive_kl(q, p), abs=1e-12)
        assert JSD.value(student, teacher)[t].item() == pytest.approx(naive_jsd(p, q, 0.3), abs=1e-12)


def test_the_gradient_of_the_reverse_kl_is_its_closed_form():
    student, teacher = two_logits()
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    kl = REVERSE_KL.value(log_p, log_q)
    (gradient,) = torch.autograd.grad(kl.sum(), student)
    torch.testing.assert_close(gradient, log_p.exp() * ((log_p - log_q) - kl[:, None]), rtol=0, atol=1e-12)


def test_the_gradient_of_the_forward_kl_is_p_minus_q():
    student, teacher = two_logits()
    (gradient,) = torch.autograd.grad(FORWARD_KL.value(student.log_softmax(-1), teacher.log_softmax(-1)).sum(), student)
    torch.testing.assert_close(gradient, student.softmax(-1) - teacher.softmax(-1), rtol=0, atol=1e-12)


def test_the_gradient_of_the_jsd_passes_through_the_mixture():
    student, teacher = two_logits()
    log_q = teacher.detach().log_softmax(-1)
    assert torch.autograd.gradcheck(lambda logits: JSD.value(logits.log_softmax(-1), log_q), student)


@pytest.mark.parametrize("divergence", EVERY)
def test_no_gradient_reaches_the_teacher(divergence):
    student, teacher = two_logits()
    divergence.value(student.log_softmax(-1), teacher.log_softmax(-1)).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_the_jsd_is_symmetric_at_one_half_only():
    p, q = (logits.log_softmax(-1) for logits in two_logits())
    torch.testing.assert_close(JSD_OF_HALF.value(p, q), JSD_OF_HALF.value(q, p), rtol=0, atol=1e-14)
    assert (JSD.value(p, q) - JSD.value(q, p)).abs().max() > 1e-3


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 1.1, math.nan])
def test_the_jsd_refuses_a_beta_at_which_it_vanishes_and_says_so(beta):
    with pytest.raises(ValueError, match="vanishes at both ends"):
        JensenShannon(beta)


def test_equal_distributions_diverge_by_less_than_a_millionth_nat_in_fp32():
    logits = two_logits(torch.float32)[0]
    logprobs = log_softmax_at(logits, 1.0, NUM_VOCAB)
    for value in (
        REVERSE_KL.value(logprobs, logprobs),
        FORWARD_KL.value(logprobs, logprobs),
        JSD_OF_HALF.value(logprobs, logprobs),
    ):
        assert value.abs().max() < 1e-6


@pytest.mark.parametrize("nothing", [-math.inf, -1e4])
@pytest.mark.parametrize("divergence", EVERY)
def test_a_token_without_probability_on_either_side_changes_nothing(divergence, nothing):
    student, teacher = (logits.detach().float() for logits in two_logits())
    masked_student, masked_teacher = student.clone(), teacher.clone()
    masked_student[:, 2] = masked_teacher[:, 2] = nothing
    masked_student.requires_grad_()
    keep = [v for v in range(NUM_VOCAB) if v != 2]
    student = student[:, keep].requires_grad_()

    expected = divergence.value(student.log_softmax(-1), teacher[:, keep].log_softmax(-1))
    expected.sum().backward()
    actual = divergence.value(masked_student.log_softmax(-1), masked_teacher.log_softmax(-1))
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
        (one_sided, REVERSE_KL.value(log_one_sided, log_whole)),
        (one_sided, JSD.value(log_one_sided, log_whole)),
        (whole, FORWARD_KL.value(log_whole, log_one_sided)),
        (whole, JSD.value(log_whole, log_one_sided)),
    ):
        (gradient,) = torch.autograd.grad(value.sum(), student, retain_graph=True)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_the_reverse_kl_is_infinite_where_the_teacher_forbids_what_the_student_writes():
    student, teacher = (logits.detach() for logits in two_logits())
    teacher[:, 2] = -math.inf
    assert (REVERSE_KL.value(student.log_softmax(-1), teacher.log_softmax(-1)) == math.inf).all()


def test_extreme_logits_stay_finite_in_value_and_gradient():
    student = torch.tensor([[3e4, -3e4, 0.0], [-1e4, 1e4, 1e4]], requires_grad=True)
    teacher = torch.tensor([[-3e4, 3e4, 1.0], [1e4, -1e4, 0.0]])
    log_p, log_q = log_softmax_at(student, 1.0, 3), log_softmax_at(teacher, 1.0, 3)
    for value in (REVERSE_KL.value(log_p, log_q), FORWARD_KL.value(log_p, log_q), JSD_OF_HALF.value(log_p, log_q)):
        (gradient,) = torch.autograd.grad(value.sum(), student, retain_graph=True)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
    assert REVERSE_KL.value(log_p, log_q)[0].item() == pytest.approx(6e4)


@pytest.mark.parametrize("divergence", EVERY)
def test_bf16_logprobs_are_summed_in_fp32(divergence):
    log_p, log_q = (logits.log_softmax(-1).bfloat16() for logits in two_logits())
    value = divergence.value(log_p, log_q)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, divergence.value(log_p.float(), log_q.float()), rtol=0, atol=0)


def test_student_and_teacher_of_different_shapes_are_refused_instead_of_broadcast():
    log_p, log_q = (logits.log_softmax(-1) for logits in two_logits())
    with pytest.raises(ValueError, match="must have one shape"):
        REVERSE_KL.value(log_p, log_q[:1])


@pytest.mark.parametrize("divergence", EVERY)
def test_the_fused_value_and_gradient_are_those_of_the_definition(divergence: TokenDivergence):
    student, teacher = two_logits()
    log_p, log_q = student.log_softmax(-1), teacher.detach().log_softmax(-1)
    upstream = torch.linspace(0.5, 2.0, NUM_TOKENS, dtype=torch.float64)
    expected = divergence.value(log_p, log_q)
    (on_logits,) = torch.autograd.grad(expected, student, upstream)
    kept = log_p.detach().clone()
    fused = divergence.fuse(kept, log_q.clone(), log_q.exp())
    torch.testing.assert_close(fused.value, expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(divergence.gradient(fused, upstream), on_logits, rtol=0, atol=1e-12)
    assert torch.equal(kept, log_p.detach())  # the chunk still needs them


def test_every_divergence_of_the_settings_has_a_class_of_its_name():
    assert [member.name.lower() for member in Divergence] == list(DIVERGENCES)
    assert all(isinstance(make_divergence(name, 0.5), TokenDivergence) for name in DIVERGENCES)


def test_an_unknown_divergence_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="choose one of reverse_kl, forward_kl, jsd"):
        make_divergence("hellinger", 0.5)
