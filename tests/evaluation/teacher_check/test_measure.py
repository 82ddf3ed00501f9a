"""What is measured, on a model whose answers and distributions are known."""

import asyncio
import math
from dataclasses import replace

import pytest

from sdft_ray.evaluation.teacher_check.measure import Comparison, compare_prompts
from sdft_ray.evaluation.teacher_check.sample import PoolPrompts
from tests.evaluation.teacher_check.asked import (
    ASKING,
    END,
    LONG,
    PLAIN,
    SHORT,
    WRONG,
    FakeModel,
    half_right,
    measured,
    probe,
    sample_of,
    silent,
)


def compare(model: FakeModel, **changes: object) -> Comparison:
    sample = sample_of([probe(number, **changes) for number in range(4)])  # type: ignore[arg-type]
    return asyncio.run(compare_prompts(model, sample, ASKING, silent))


def knowing(*kinds: tuple[int, int]) -> FakeModel:
    """Right under prompts of a kind for so many of the examples."""
    return FakeModel({(kind, number): (1, END) for kind, num_right in kinds for number in range(num_right)})


def test_accuracies_are_of_greedy_answers_under_each_prompt() -> None:
    found = compare(knowing((PLAIN, 1), (SHORT, 4), (LONG, 3), (WRONG, 2)))
    assert found.student.right == [True, False, False, False]
    assert {name: teacher.accuracy.mean for name, teacher in found.teachers.items()} == {"short": 1.0, "long": 0.75}
    assert found.wrong.accuracy.mean == 0.5
    assert 0.5 < found.teachers["short"].accuracy.low < 1.0


def test_the_best_template_is_shown_wrong_demonstrations_and_no_other() -> None:
    model = knowing((SHORT, 1), (LONG, 3))
    found = compare(model)
    assert found.best == "long"
    misled = [prompt for prompt in model.asked if prompt[0] == WRONG]
    assert misled == [(WRONG, number, 0) for number in range(4)]


def test_among_equally_accurate_templates_the_more_likely_demonstration_decides() -> None:
    model = knowing((SHORT, 3), (LONG, 3))
    model.chances[LONG] = {1: 0.9, 2: 0.05, END: 0.05}
    assert compare(model).best == "short"  # log 0.9 + log 0.05 is less than log 0.5 + log 0.25
    model.chances[LONG] = {1: 0.5, 2: 0.05, END: 0.45}
    assert compare(model).best == "long"


def test_the_logprob_is_the_mean_over_examples_of_the_mean_over_tokens() -> None:
    found = compare(FakeModel({}))
    assert found.student.logprob.mean == pytest.approx((math.log(0.5) + math.log(0.25)) / 2)


def test_without_answers_there_is_no_accuracy() -> None:
    found = compare(knowing((SHORT, 4)), answer="")
    assert found.student.right == found.teachers["short"].right == []
    assert found.best == "short"


def test_a_single_answer_is_no_accuracy_either() -> None:
    assert measured([True, None, None], [-1.0, -1.0, -1.0]).right == []


def test_copies_are_of_the_demonstration_that_was_shown() -> None:
    model = FakeModel({(SHORT, 0): (1, END), (SHORT, 1): (1,), (SHORT, 2): (1, 1, END), (WRONG, 0): (2, END)})
    found = compare(model)
    assert [seen.copied for seen in found.teachers["short"].observations] == [True, True, False, False]
    assert [seen.copied for seen in found.wrong.observations] == [True, False, False, False]
    assert found.teachers["short"].copied.mean == 0.5


def test_an_answer_without_its_end_is_counted_as_cut() -> None:
    found = compare(FakeModel({(PLAIN, 0): (1, 1, 1, 1), (PLAIN, 1): ()}))
    assert found.student.num_cut == 2
    assert found.teachers["short"].num_cut == 0


def test_the_divergence_of_a_teacher_that_is_the_base_is_zero_and_the_student_has_none() -> None:
    found = compare(FakeModel({}))
    divergence = found.teachers["short"].divergence
    assert divergence is not None
    assert (divergence.mean, divergence.low, divergence.high) == (0, 0, 0)
    assert found.student.divergence is None


def test_the_divergence_is_that_of_the_closed_form() -> None:
    base, teacher = {1: 0.3, 2: 0.5, END: 0.2}, {1: 0.7, 2: 0.2, END: 0.1}
    exact = sum(share * math.log(share / base[token]) for token, share in teacher.items())
    sample = sample_of([probe(number) for number in range(2000)])
    model = FakeModel({}, {PLAIN: base, SHORT: teacher})
    divergence = asyncio.run(compare_prompts(model, sample, ASKING, silent)).teachers["short"].divergence
    assert divergence is not None
    assert divergence.low < exact < divergence.high
    assert divergence.mean == pytest.approx(exact, rel=0.1)
    assert divergence.num_values == 2000


def test_every_token_counts_the_same_in_the_divergence() -> None:
    """Not every completion: 1 token at 3 nats and 9 at 0 are 0.3 nats per token."""
    divergence = measured([True, True], [-1, -1], sampled=[(1, 3.0), (9, 0.0)]).divergence
    assert divergence is not None
    assert divergence.mean == pytest.approx(0.3)
    assert divergence.low < 0.3 < divergence.high


def test_intervals_are_those_of_proportions_and_means() -> None:
    seen = half_right(8, 8, -1.0)
    assert (seen.accuracy.mean, seen.accuracy.high) == (1.0, 1.0)
    assert seen.accuracy.low < 0.7
    assert seen.logprob.low < seen.logprob.mean < seen.logprob.high


def test_the_best_template_is_shown_the_pools_demonstrations_by_every_retriever() -> None:
    near, drawn = 50, 60
    model = knowing((SHORT, 1), (LONG, 4), (near, 3), (drawn, 2))
    model.chances |= {near: model.chances[LONG], drawn: model.chances[LONG]}
    probes = [
        replace(
            probe(number),
            pools={
                name: PoolPrompts(("other",), (1, END), {"short": (kind, 99), "long": (kind, number)})
                for name, kind in (("BM25", near), ("RANDOM", drawn))
            },
        )
        for number in range(4)
    ]
    found = asyncio.run(compare_prompts(model, sample_of(probes), ASKING, silent))
    assert found.best == "long"
    assert {name: measured.accuracy.mean for name, measured in found.pools.items()} == {"BM25": 0.75, "RANDOM": 0.5}
    assert (near, 99) not in model.asked, "in the best template only"
    assert [seen.copied for seen in found.pools["BM25"].observations] == [True, True, True, False]
