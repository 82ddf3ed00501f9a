"""What the gradient estimators estimate, by enumerating every sequence of a toy autoregressive model.

Legend: L tokens per sequence, V vocabulary, P prefixes; S = V**L sequences. The model is a table with one row
of logits per prefix, so every expectation is a finite sum and every gradient exact up to float64 rounding.
"""

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from sdft_ray.distill.divergence import LossSettings
from sdft_ray.distill.reduction import TokenTerms, positions_in_use, reduce_terms
from sdft_ray.distill.reference_loss import teacher_loss

NUM_VOCAB, LENGTH = 3, 3
PREFIXES = [prefix for size in range(LENGTH) for prefix in product(range(NUM_VOCAB), repeat=size)]
SEQUENCES = list(product(range(NUM_VOCAB), repeat=LENGTH))
TOKEN_IDS = torch.tensor(SEQUENCES).flatten()
SEQUENCE_IDS = torch.arange(len(SEQUENCES)).repeat_interleave(LENGTH)
# [S * L]: the table's row that predicts each token of the packed sequences.
ROWS = torch.tensor([PREFIXES.index(sequence[:t]) for sequence in SEQUENCES for t in range(LENGTH)])


def settings(estimator: str) -> LossSettings:
    chosen: dict[str, Any] = {"divergence": "reverse_kl", "jsd_beta": 0.5, "temperature": 1.0}
    return LossSettings(**chosen, estimator=estimator, mismatch="none")


def two_tables() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (len(PREFIXES), NUM_VOCAB)
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher


def sequence_logprobs(table: Tensor) -> Tensor:
    """The sequence logprob log P(y) [S] of every sequence."""
    tokens = table.log_softmax(-1)[ROWS, TOKEN_IDS]
    return tokens.reshape(len(SEQUENCES), LENGTH).sum(-1)


def exact_gradient(student: Tensor, teacher: Tensor) -> Tensor:
    """The gradient [P, V] of sum_y P(y) (log P(y) - log Q(y))."""
    log_p = sequence_logprobs(student)
    return torch.autograd.grad((log_p.exp() * (log_p - sequence_logprobs(teacher))).sum(), student)[0]


def expected_gradient(
    estimator: str, student: Tensor, teacher: Tensor, num_skipped: int = 0, rows: Tensor = ROWS
) -> Tensor:
    """The estimator's expectation [P, V]: all sequences packed in one microbatch, weighted by P(y)."""
    probabilities = sequence_logprobs(student).detach().exp()
    counted = torch.arange(LENGTH).repeat(len(SEQUENCES)) >= num_skipped
    output = teacher_loss(
        student_logits=student[rows],
        teacher_logits=teacher[rows],
        token_ids=TOKEN_IDS,
        token_weights=probabilities[SEQUENCE_IDS] * counted,
        sequence_ids=SEQUENCE_IDS,
        sampler_logprobs=torch.zeros(len(TOKEN_IDS), dtype=torch.float64),
        settings=settings(estimator),
        num_vocab=NUM_VOCAB,
    )
    return torch.autograd.grad(output.loss, student)[0]


def test_rao_blackwell_expects_the_gradient_of_the_exact_sequence_kl():
    student, teacher = two_tables()
    torch.testing.assert_close(
        expected_gradient("rao_blackwell", student, teacher),
        exact_gradient(student, teacher),
        rtol=0,
        atol=1e-12,
    )


def test_analytic_misses_how_the_student_chooses_its_prefixes():
    student, teacher = two_tables()
    missing = exact_gradient(student, teacher) - expected_gradient("analytic", student, teacher)
    full_prefixes = [i for i, prefix in enumerate(PREFIXES) if len(prefix) == LENGTH - 1]
    others = [i for i in range(len(PREFIXES)) if i not in full_prefixes]
    # Nothing follows the last token, so nothing is missed there; everywhere else something is.
    torch.testing.assert_close(missing[full_prefixes], torch.zeros_like(missing[full_prefixes]), rtol=0, atol=1e-12)
    assert (missing[others].abs().amax(-1) > 1e-3).all()


def test_sampled_token_expects_what_analytic_computes():
    student, teacher = two_tables()
    torch.testing.assert_close(
        expected_gradient("sampled_token", student, teacher),
        expected_gradient("analytic", student, teacher),
        rtol=0,
        atol=1e-12,
    )


def test_sampled_token_expects_the_analytic_gradient_for_each_fixed_prefix():
    student, teacher = two_tables()
    for row in range(len(PREFIXES)):
        token_ids = torch.arange(NUM_VOCAB)
        logits = student.detach()[row].clone().requires_grad_()
        inputs = {
            "student_logits": logits.expand(NUM_VOCAB, -1),
            "teacher_logits": teacher[row].expand(NUM_VOCAB, -1),
            "token_ids": token_ids,
            "token_weights": logits.detach().softmax(-1),
            "sequence_ids": token_ids,
            "sampler_logprobs": torch.zeros(NUM_VOCAB, dtype=torch.float64),
            "num_vocab": NUM_VOCAB,
        }
        outputs = [teacher_loss(**inputs, settings=settings(name)) for name in ("sampled_token", "analytic")]
        sampled, analytic = (torch.autograd.grad(output.loss, logits)[0] for output in outputs)
        torch.testing.assert_close(sampled, analytic, rtol=0, atol=1e-12)
        torch.testing.assert_close(outputs[0].loss, outputs[1].loss, rtol=0, atol=1e-12)


def test_the_gradient_of_one_sampled_token_is_its_log_ratio_times_its_score():
    student, teacher = two_tables()
    logits = student.detach()[:1].clone().requires_grad_()
    output = teacher_loss(
        student_logits=logits,
        teacher_logits=teacher[:1],
        token_ids=torch.tensor([2]),
        token_weights=torch.ones(1, dtype=torch.float64),
        sequence_ids=torch.tensor([0]),
        sampler_logprobs=torch.zeros(1, dtype=torch.float64),
        settings=settings("sampled_token"),
        num_vocab=NUM_VOCAB,
    )
    (gradient,) = torch.autograd.grad(output.loss, logits)
    log_p, log_q = logits.detach().log_softmax(-1), teacher[:1].log_softmax(-1)
    score = torch.tensor([0.0, 0.0, 1.0]) - log_p.exp()
    torch.testing.assert_close(gradient, (log_p - log_q)[0, 2] * score, rtol=0, atol=1e-12)
    # The full-vocabulary divergence is reported all the same.
    torch.testing.assert_close(output.divergence, (log_p.exp() * (log_p - log_q)).sum(-1))


@pytest.mark.parametrize("num_skipped", [1, 2])
def test_tokens_that_are_not_counted_still_score_under_rao_blackwell(num_skipped):
    student, teacher = two_tables()
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)[ROWS].reshape(len(SEQUENCES), LENGTH)
    objective = (sequence_logprobs(student).exp() * kl[:, num_skipped:].sum(-1)).sum()
    (exact,) = torch.autograd.grad(objective, student)
    assert exact[0].abs().max() > 1e-3
    torch.testing.assert_close(
        expected_gradient("rao_blackwell", student, teacher, num_skipped), exact, rtol=0, atol=1e-12
    )


def terms(divergence: list[float]) -> TokenTerms:
    """Terms [T] whose divergence and student logprobs are leaves, so that their gradients can be read."""
    num_tokens = len(divergence)
    return TokenTerms(
        divergence=torch.tensor(divergence, requires_grad=True),
        student_logprobs=torch.full((num_tokens,), -1.0, requires_grad=True),
        teacher_logprobs=torch.full((num_tokens,), -3.0),
        student_entropy=torch.ones(num_tokens),
        teacher_entropy=torch.ones(num_tokens),
    )


def gradients(estimator: str, weights: list[float], sequence_ids: list[int]) -> tuple[float, Any, Any]:
    leaves = terms([1.0, 2.0, 4.0, 8.0, 16.0])
    output = reduce_terms(
        leaves, torch.tensor(weights), torch.tensor(sequence_ids), torch.zeros(5), settings(estimator)
    )
    output.loss.backward()
    divergence, logprobs = leaves.divergence.grad, leaves.student_logprobs.grad
    return output.loss.item(), *(None if grad is None else grad.tolist() for grad in (divergence, logprobs))


def test_terms_of_any_origin_are_reduced_to_the_gradients_worked_out_by_hand():
    weights, ids = [0.0, 0.5, 0.25, 0.5, 0.0], [0, 0, 0, 1, 1]
    assert gradients("analytic", weights, ids) == (6.0, weights, None)
    # log p - log q = 2 at every token.
    assert gradients("sampled_token", weights, ids) == (2.5, None, [0.0, 1.0, 0.5, 1.0, 0.0])
    # Later weighted divergence: 0.5 * 2 + 0.25 * 4 after the first token, 0.25 * 4 after the second.
    assert gradients("rao_blackwell", weights, ids) == (6.0, weights, [2.0, 1.0, 0.0, 0.0, 0.0])


def test_positions_in_use_are_counted_or_come_before_a_counted_token():
    weights, ids = torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 0, 1, 1])
    assert positions_in_use(weights, ids, "analytic").tolist() == [False, True, False, False, False]
    assert positions_in_use(weights, ids, "rao_blackwell").tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("estimator", ["analytic", "sampled_token", "rao_blackwell"])
@pytest.mark.parametrize("weird", [math.nan, math.inf, -math.inf])
def test_weird_terms_where_nothing_counts_get_a_gradient_of_exactly_zero(weird, estimator):
    leaves = TokenTerms(
        divergence=torch.tensor([1.0, weird, weird], requires_grad=True),
        student_logprobs=torch.tensor([-1.0, -1.0, weird], requires_grad=True),
        teacher_logprobs=torch.tensor([-3.0, weird, weird]),
        student_entropy=torch.ones(3),
        teacher_entropy=torch.ones(3),
    )
    weights, ids = torch.tensor([0.5, 0.0, 0.0]), torch.tensor([0, 0, 1])
    output = reduce_terms(leaves, weights, ids, torch.zeros(3), settings(estimator))
    output.loss.backward()
    assert output.loss.item() == (1.0 if estimator == "sampled_token" else 0.5)
    for gradient in (leaves.divergence.grad, leaves.student_logprobs.grad):
        assert gradient is None or gradient[1:].tolist() == [0.0, 0.0]


def test_terms_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="token_weights has shape"):
        reduce_terms(terms([1.0, 2.0]), torch.ones(1), torch.tensor([0, 0]), torch.zeros(2), settings("analytic"))
