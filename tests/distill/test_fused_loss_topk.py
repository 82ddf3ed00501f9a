"""The fused loss against K candidates and a tail of the teacher, held against autograd through the outcomes."""

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from sdft_ray.distill.distributions import Head, HiddenRows, TopKRows
from sdft_ray.distill.divergence import LossSettings, make_divergence
from sdft_ray.distill.fused_loss import fused_teacher_loss
from sdft_ray.distill.reduction import LossOutput

NUM_VOCAB, NUM_ROWS, HIDDEN, TOKENS = 23, 25, 6, 11
TAILS: tuple[Literal["bucket"], Literal["renormalize"]] = ("bucket", "renormalize")


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


HIDDEN_STATES, WEIGHT = randn(TOKENS, HIDDEN, seed=0), randn(NUM_ROWS, HIDDEN, seed=1)
TEACHER = HiddenRows(randn(TOKENS, HIDDEN, seed=2), Head(randn(NUM_ROWS, HIDDEN, seed=3)))
TOKEN_IDS = torch.arange(TOKENS) % NUM_VOCAB
TOKEN_WEIGHTS = randn(TOKENS, seed=4).abs()


def candidates(num: int, tail: Any, temperature: float = 1.0) -> TopKRows:
    logprobs = torch.log_softmax(TEACHER.logits(slice(0, TOKENS), NUM_VOCAB) / temperature, dim=-1)
    values, ids = logprobs.topk(num)
    rest = logprobs.scatter(-1, ids, -math.inf).logsumexp(-1)
    return TopKRows(ids, values, rest, logprobs[torch.arange(TOKENS), TOKEN_IDS], tail)


def settings(**changes: Any) -> LossSettings:
    defaults = {"divergence": "reverse_kl", "jsd_beta": 0.3, "estimator": "analytic", "temperature": 1.0}
    return LossSettings(**(defaults | {"mismatch": "none"} | changes))  # type: ignore[arg-type]


def fused(teacher: Any, chosen: LossSettings) -> tuple[LossOutput, Tensor, Tensor]:
    hidden, weight = HIDDEN_STATES.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    output = fused_teacher_loss(
        student_hidden=hidden,
        student_head=Head(weight),
        teacher=teacher,
        token_ids=TOKEN_IDS,
        token_weights=TOKEN_WEIGHTS,
        sequence_ids=torch.zeros(TOKENS, dtype=torch.long),
        sampler_logprobs=torch.zeros(TOKENS, dtype=torch.float64),
        settings=chosen,
        num_vocab=NUM_VOCAB,
        chunk_rows=4,
    )
    return output, *torch.autograd.grad(output.loss, (hidden, weight))


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl", "jsd"])
def test_value_and_gradient_are_those_of_the_outcomes(name: str, tail: str) -> None:
    chosen = settings(divergence=name, temperature=0.8)
    teacher = candidates(5, tail, temperature=0.8)
    hidden, weight = HIDDEN_STATES.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    logprobs = torch.log_softmax((hidden @ weight.T)[:, :NUM_VOCAB] / 0.8, dim=-1)
    student_part, teacher_part = logprobs.gather(-1, teacher.ids), teacher.logprobs
    if tail == "bucket":
        others = torch.ones(TOKENS, NUM_VOCAB, dtype=torch.bool).scatter(-1, teacher.ids, False)
        rest = logprobs.masked_fill(~others, -math.inf).logsumexp(-1, keepdim=True)
        student_part = torch.cat([student_part, rest], dim=-1)
        teacher_part = torch.cat([teacher_part, teacher.tail_logprobs[:, None]], dim=-1)
    else:
        student_part, teacher_part = student_part.log_softmax(-1), teacher_part.log_softmax(-1)
    expected = make_divergence(name, 0.3).value(student_part, teacher_part)
    gradients = torch.autograd.grad((TOKEN_WEIGHTS * expected).sum(), (hidden, weight))
    output, *mine = fused(teacher, chosen)
    torch.testing.assert_close(output.divergence, expected.detach())
    for one, other in zip(mine, gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("chosen", [settings(), settings(divergence="jsd"), settings(estimator="rao_blackwell")])
def test_with_every_token_a_candidate_it_is_the_full_distribution(chosen: LossSettings, tail: str) -> None:
    output, *gradients = fused(candidates(NUM_VOCAB, tail), chosen)
    expected, *expected_gradients = fused(TEACHER, chosen)
    for name in LossOutput.__dataclass_fields__:
        torch.testing.assert_close(getattr(output, name), getattr(expected, name), msg=name)
    for mine, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl"])
def test_one_bucket_for_the_rest_never_exceeds_the_full_divergence(name: str) -> None:
    """By the data processing inequality; a bare truncated sum could be anything."""
    full = fused(TEACHER, settings(divergence=name))[0].divergence
    bounded = [fused(candidates(num, "bucket"), settings(divergence=name))[0].divergence for num in (2, 8)]
    assert (bounded[0] <= bounded[1] + 1e-12).all()
    assert (bounded[1] <= full + 1e-12).all()
    assert (bounded[0] >= 0).all()
