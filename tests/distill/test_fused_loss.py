"""The fused loss against the plain one on the logits of the same hidden states: value, terms and gradients."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from sdft_ray.distill.distributions import Head, HiddenRows, JoinedRows, LogitsRows
from sdft_ray.distill.divergence import LossSettings
from sdft_ray.distill.fused_loss import default_chunk_rows, fused_teacher_loss, fused_token_loss
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.distill.reference_loss import teacher_loss, token_loss

NUM_VOCAB, NUM_ROWS, HIDDEN = 37, 40, 8
LENGTHS = (5, 1, 9, 3)  # with chunks of 4 rows: whole, shared, longer than a chunk, and no multiple of it
TOKENS = sum(LENGTHS)
ANALYTIC = [("reverse_kl", "analytic"), ("forward_kl", "analytic"), ("jsd", "analytic")]
ESTIMATED = [("reverse_kl", "sampled_token"), ("reverse_kl", "rao_blackwell")]
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scaled": {"scale": 0.3},
    "capped": {"softcap": 2.0},
    "everything": {"bias": True, "scale": 1.7, "softcap": 1.5},
}


def make_head(seed: int, *, bias: bool = False, scale: float = 1.0, softcap: float = 0.0) -> Head:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(NUM_ROWS, HIDDEN, generator=generator, dtype=torch.float64)
    offsets = torch.randn(NUM_ROWS, generator=generator, dtype=torch.float64) if bias else None
    return Head(weight, offsets, scale, softcap)


class Problem:
    """Hidden states of both sides and everything else a loss needs, in fp64."""

    def __init__(self, **head: Any):
        generator = torch.Generator().manual_seed(0)
        self.head = make_head(1, **head)
        self.hidden = torch.randn(TOKENS, HIDDEN, generator=generator, dtype=torch.float64)
        self.teacher = HiddenRows(
            torch.randn(TOKENS, HIDDEN, generator=generator, dtype=torch.float64), make_head(2, **head)
        )
        self.token_ids = torch.randint(NUM_VOCAB, (TOKENS,), generator=generator)
        self.sequence_ids = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
        weights = torch.rand(TOKENS, generator=generator, dtype=torch.float64)
        self.token_weights = torch.where(torch.arange(TOKENS) % 4 == 1, 0.0, weights)
        self.sampler_logprobs = torch.full((TOKENS,), -3.0, dtype=torch.float64)

    def parameters(self) -> list[Tensor]:
        """Fresh leaves: hidden states, weight and, where there is one, bias."""
        leaves = [self.hidden, self.head.weight, *([] if self.head.bias is None else [self.head.bias])]
        return [leaf.clone().requires_grad_() for leaf in leaves]

    def head_of(self, leaves: list[Tensor]) -> Head:
        return self.head._replace(weight=leaves[1], bias=leaves[2] if len(leaves) > 2 else None)

    def common(self) -> dict[str, Any]:
        return {"token_ids": self.token_ids, "token_weights": self.token_weights, "num_vocab": NUM_VOCAB}

    def teacher_inputs(self, settings: LossSettings) -> dict[str, Any]:
        sequences = {"sequence_ids": self.sequence_ids, "sampler_logprobs": self.sampler_logprobs}
        return self.common() | sequences | {"settings": settings}

    def plain(self, settings: LossSettings) -> tuple[LossOutput, list[Tensor]]:
        leaves = self.parameters()
        output = teacher_loss(
            student_logits=self.head_of(leaves).logits(leaves[0], NUM_ROWS),
            teacher_logits=self.teacher.logits(slice(0, TOKENS), NUM_ROWS),
            **self.teacher_inputs(settings),
        )
        return output, gradients(output, leaves)

    def fused(self, settings: LossSettings, teacher: Any = None, **kwargs: Any) -> tuple[LossOutput, list[Tensor]]:
        leaves = self.parameters()
        output = fused_teacher_loss(
            student_hidden=leaves[0],
            student_head=self.head_of(leaves),
            teacher=self.teacher if teacher is None else teacher,
            **self.teacher_inputs(settings),
            **kwargs,
        )
        return output, gradients(output, leaves)


def gradients(output: LossOutput, leaves: list[Tensor]) -> list[Tensor]:
    (3.0 * output.loss).backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def make_settings(divergence: str = "reverse_kl", estimator: str = "analytic", **changes: Any) -> LossSettings:
    defaults = {"jsd_beta": 0.3, "temperature": 1.0, "mismatch": "none"}
    return LossSettings(**(defaults | {"divergence": divergence, "estimator": estimator} | changes))  # type: ignore[arg-type]


def assert_equal(
    fused: tuple[LossOutput, list[Tensor]], plain: tuple[LossOutput, list[Tensor]], tolerance: float = 1e-11
) -> None:
    for name in LossOutput.__dataclass_fields__:
        expected = getattr(plain[0], name)
        torch.testing.assert_close(getattr(fused[0], name), expected, rtol=tolerance, atol=tolerance, msg=name)
    assert len(fused[1]) == len(plain[1])
    for mine, expected in zip(fused[1], plain[1], strict=True):
        torch.testing.assert_close(mine, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mismatch", ["none", "token", "sequence"])
@pytest.mark.parametrize(("divergence", "estimator"), ANALYTIC + ESTIMATED)
@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
def test_the_fused_loss_is_the_plain_one(divergence: str, estimator: str, mismatch: str, chunk_rows: int) -> None:
    settings = make_settings(divergence, estimator, mismatch=mismatch, temperature=0.7)
    problem = Problem()
    assert_equal(problem.fused(settings, chunk_rows=chunk_rows), problem.plain(settings))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("divergence", "estimator"), ANALYTIC)
def test_heads_with_bias_scale_and_cap(head: str, divergence: str, estimator: str) -> None:
    settings = make_settings(divergence, estimator, temperature=1.3)
    problem = Problem(**HEADS[head])
    assert_equal(problem.fused(settings, chunk_rows=4), problem.plain(settings))


@pytest.mark.parametrize(("divergence", "estimator"), ANALYTIC)
def test_in_fp32_gradients_agree_to_a_hundred_thousandth(divergence: str, estimator: str) -> None:
    settings = make_settings(divergence, estimator)
    problem = Problem()
    plain = problem.plain(settings)
    for name in ("hidden", "token_weights", "sampler_logprobs"):
        setattr(problem, name, getattr(problem, name).float())
    problem.head = problem.head._replace(weight=problem.head.weight.float())
    problem.teacher = HiddenRows(
        problem.teacher.hidden.float(), problem.teacher.head._replace(weight=problem.teacher.head.weight.float())
    )
    _, mine = problem.fused(settings, chunk_rows=4)
    for gradient, expected in zip(mine, plain[1], strict=True):
        assert (gradient.double() - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("target", ["nll", "dft"])
@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
def test_token_targets_are_the_plain_ones(target: Any, chunk_rows: int) -> None:
    problem = Problem(bias=True, softcap=2.0)
    settings = {"target": target, "temperature": 0.8}
    plain_leaves, leaves = problem.parameters(), problem.parameters()
    logits = problem.head_of(plain_leaves).logits(plain_leaves[0], NUM_ROWS)
    plain = token_loss(student_logits=logits, **problem.common(), **settings)
    fused = fused_token_loss(
        student_hidden=leaves[0],
        student_head=problem.head_of(leaves),
        chunk_rows=chunk_rows,
        **problem.common(),
        **settings,
    )
    assert_equal((fused, gradients(fused, leaves)), (plain, gradients(plain, plain_leaves)))


def test_every_form_of_the_full_distribution_gives_the_same_loss() -> None:
    settings = make_settings()
    problem = Problem(bias=True)
    whole = problem.teacher
    expected = problem.fused(settings, chunk_rows=4)
    logits = LogitsRows(whole.logits(slice(0, TOKENS), NUM_ROWS))
    cuts = [0, 2, 2, 7, TOKENS]
    parts = [HiddenRows(whole.hidden[start:end], whole.head) for start, end in itertools.pairwise(cuts)]
    assert_equal(problem.fused(settings, logits, chunk_rows=4), expected)
    assert_equal(problem.fused(settings, JoinedRows(parts), chunk_rows=4), expected)


def test_padded_rows_get_no_gradient_and_change_nothing() -> None:
    problem = Problem()
    _, (_, of_weight) = problem.fused(make_settings())
    assert of_weight[NUM_VOCAB:].abs().max() == 0
    problem.head.weight[NUM_VOCAB:] = 50.0
    problem.teacher.head.weight[NUM_VOCAB:] = -50.0
    assert_equal(problem.fused(make_settings()), problem.plain(make_settings()))


@pytest.mark.parametrize("estimator", ["analytic", "rao_blackwell"])
def test_a_token_that_is_not_in_use_may_be_anything(estimator: str) -> None:
    problem = Problem()
    last = TOKENS - 1
    problem.token_weights[last] = 0.0
    expected = problem.fused(make_settings(estimator=estimator), chunk_rows=4)[1]
    problem.teacher.hidden[last] = torch.nan
    for mine, other in zip(problem.fused(make_settings(estimator=estimator), chunk_rows=4)[1], expected, strict=True):
        torch.testing.assert_close(mine, other)


def test_a_teacher_that_is_the_student_has_no_divergence_and_no_gradient() -> None:
    problem = Problem()
    problem.teacher = HiddenRows(problem.hidden, problem.head)
    output, (of_hidden, of_weight) = problem.fused(make_settings(), chunk_rows=4)
    assert output.divergence.abs().max() < 1e-12
    assert max(of_hidden.abs().max(), of_weight.abs().max()) < 1e-12


def test_a_frozen_head_gets_no_gradient_and_none_is_made_without_grad() -> None:
    problem = Problem()
    hidden = problem.hidden.clone().requires_grad_()
    arguments = problem.teacher_inputs(make_settings())
    output = fused_teacher_loss(student_hidden=hidden, student_head=problem.head, teacher=problem.teacher, **arguments)
    output.loss.backward()
    torch.testing.assert_close(hidden.grad, problem.plain(make_settings())[1][0] / 3.0)
    with torch.no_grad():
        output = fused_teacher_loss(
            student_hidden=hidden, student_head=problem.head, teacher=problem.teacher, **arguments
        )
    assert not output.loss.requires_grad


def test_no_tokens_at_all_are_a_loss_of_zero() -> None:
    problem = Problem()
    arguments = problem.teacher_inputs(make_settings())
    nothing = {key: value[:0] for key, value in arguments.items() if isinstance(value, Tensor)}
    output = fused_teacher_loss(
        student_hidden=problem.hidden[:0].requires_grad_(),
        student_head=problem.head,
        teacher=HiddenRows(problem.teacher.hidden[:0], problem.teacher.head),
        settings=make_settings(),
        num_vocab=NUM_VOCAB,
        **nothing,
    )
    assert output.loss.item() == 0.0 and output.divergence.shape == (0,)
    output.loss.backward()


def test_the_gradient_is_given_away_once() -> None:
    problem = Problem()
    leaves = problem.parameters()
    output = fused_teacher_loss(
        student_hidden=leaves[0],
        student_head=problem.head_of(leaves),
        teacher=problem.teacher,
        **problem.teacher_inputs(make_settings()),
    )
    output.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        output.loss.backward()


def test_what_does_not_fit_is_refused() -> None:
    problem = Problem()
    with pytest.raises(ValueError, match="num_vocab=41, but the head has 40 rows"):
        problem.head.logits(problem.hidden, 41)
    with pytest.raises(ValueError, match="hidden states of size 7 for a head of size 8"):
        problem.head.logits(problem.hidden[:, :7], NUM_VOCAB)


def test_a_chunk_holds_at_least_one_row_of_the_largest_vocabulary() -> None:
    assert default_chunk_rows(10**9, torch.device("cpu")) == 1
    assert default_chunk_rows(152_064, torch.device("cpu")) > 64


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("num_tokens", [3, TOKENS])  # fewer elements on the logits than the head has, or more
def test_a_head_with_a_place_for_its_gradient_has_it_added_there(head: str, num_tokens: int) -> None:
    problem, few = Problem(**HEADS[head]), slice(0, num_tokens)

    def leaves_after(place: Tensor | None) -> list[Tensor]:
        leaves = problem.parameters()
        output = fused_token_loss(
            student_hidden=leaves[0][few],
            student_head=problem.head_of(leaves)._replace(gradient=None if place is None else lambda: place),
            token_ids=problem.token_ids[few],
            token_weights=problem.token_weights[few],
            target="nll",
            temperature=0.7,
            num_vocab=NUM_VOCAB,
            chunk_rows=2,
        )
        (3.0 * output.loss).backward()
        return leaves

    place = torch.ones(NUM_ROWS, HIDDEN, dtype=torch.float64)
    own, expected = leaves_after(place), leaves_after(None)
    uses_place = num_tokens * NUM_VOCAB < NUM_ROWS * HIDDEN
    assert (own[1].grad is None) == uses_place
    torch.testing.assert_close(place - 1.0 if uses_place else own[1].grad, expected[1].grad)
    for mine, other in zip([own[0], *own[2:]], [expected[0], *expected[2:]], strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
