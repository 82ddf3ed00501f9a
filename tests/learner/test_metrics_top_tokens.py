"""The preferences of both sides are those of the full distributions, whatever form the teacher's scores have."""

import math

import numpy as np
import pytest
import torch

from sdft_ray.distill.distributions import Head, HiddenRows, JoinedRows, LogitsRows, TeacherRows, TopKRows
from sdft_ray.learner.metrics import top_tokens
from sdft_ray.records import Microbatch, TopTokens

NUM_VOCAB, ROWS, HIDDEN, TEMPERATURE = 11, 13, 6, 0.7
LENGTHS = (4, 9, 3)
NUM_TOKENS = sum(LENGTHS)


def microbatch(*reported: int) -> Microbatch:
    return Microbatch(
        example_ids=("a", "b", "c"),
        input_ids=np.arange(NUM_TOKENS),
        position_ids=np.arange(NUM_TOKENS),
        predictor_index=np.arange(NUM_TOKENS),
        completion_ids=np.arange(NUM_TOKENS),
        sequence_ids=np.repeat([0, 1, 2], LENGTHS),
        token_weights=np.ones(NUM_TOKENS, dtype=np.float32),
        sampler_logprobs=np.zeros(NUM_TOKENS, dtype=np.float32),
        payloads=(None,) * 3,
        teacher_versions=(0, 0, 0),
        reported=reported,
    )


def heads_and_hidden() -> tuple[Head, torch.Tensor, Head, torch.Tensor]:
    torch.manual_seed(0)
    student = Head(torch.randn(ROWS, HIDDEN, requires_grad=True), torch.randn(ROWS))
    return student, torch.randn(NUM_TOKENS, HIDDEN), Head(torch.randn(ROWS, HIDDEN)), torch.randn(NUM_TOKENS, HIDDEN)


def found(teacher: TeacherRows | None, divergence: torch.Tensor, *reported: int) -> dict[int, tuple[TopTokens, ...]]:
    head, hidden, _, _ = heads_and_hidden()
    return top_tokens(
        microbatch(*reported),
        divergence=divergence,
        hidden=hidden,
        head=head,
        teacher=teacher,
        num_vocab=NUM_VOCAB,
        temperature=TEMPERATURE,
    )


def teachers() -> dict[str, TeacherRows]:
    _, _, head, hidden = heads_and_hidden()
    logits = hidden @ head.weight.T
    logprobs, ids = torch.log_softmax(logits[:, :NUM_VOCAB] / TEMPERATURE, -1).topk(3)
    return {
        "logits": LogitsRows(logits),
        "hidden": HiddenRows(hidden, head),
        "joined": JoinedRows([HiddenRows(hidden[:6], head), HiddenRows(hidden[6:], head)]),
        "top-k": TopKRows(ids, logprobs, torch.zeros(NUM_TOKENS), logprobs[:, 0], "bucket"),
    }


@pytest.mark.parametrize("form", ["logits", "hidden", "joined", "top-k"])
def test_both_sides_name_their_most_likely_token_at_the_largest_divergences(form: str) -> None:
    student_head, student_hidden, teacher_head, teacher_hidden = heads_and_hidden()
    divergence = torch.rand(NUM_TOKENS)
    expected = {
        name: torch.log_softmax(head.logits(hidden, NUM_VOCAB).detach() / TEMPERATURE, -1).max(-1)
        for name, head, hidden in (
            ("student", student_head, student_hidden),
            ("teacher", teacher_head, teacher_hidden),
        )
    }
    tops = found(teachers()[form], divergence, 1)
    assert list(tops) == [1]
    own = divergence[LENGTHS[0] : LENGTHS[0] + LENGTHS[1]]
    assert [top.position for top in tops[1]] == own.argsort(descending=True)[:5].tolist()
    for top in tops[1]:
        row = LENGTHS[0] + top.position
        for side in ("student", "teacher"):
            token, logprob = getattr(top, side)
            assert token == expected[side].indices[row]
            assert logprob == pytest.approx(float(expected[side].values[row]), abs=1e-5)


def test_only_reported_sequences_are_looked_at_and_a_short_one_is_shown_whole() -> None:
    divergence = torch.rand(NUM_TOKENS)
    assert found(teachers()["hidden"], divergence) == {}
    tops = found(teachers()["hidden"], divergence, 0, 2)
    assert {sequence: len(values) for sequence, values in tops.items()} == {0: 4, 2: 3}


def test_without_scores_only_the_student_has_a_preference() -> None:
    for top in found(None, torch.full((NUM_TOKENS,), math.e), 2)[2]:
        assert top.teacher is None
        assert 0 <= top.student[0] < NUM_VOCAB
