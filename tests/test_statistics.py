"""Intervals and tests against tables, closed forms and enumeration."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from sdft_ray.statistics import (
    backward_transfer,
    forward_transfer,
    holm,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    pass_at_k,
    proportion_interval,
    retention_matrix,
    student_t_quantile,
)

# The usual table of Student's t, two-sided 95 % and 99 %.
T_TABLE = [
    (0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.975, 3, 3.1824), (0.975, 4, 2.7764), (0.975, 7, 2.3646),
    (0.975, 30, 2.0423), (0.995, 1, 63.6567), (0.995, 2, 9.9248), (0.995, 5, 4.0321),
]  # fmt: skip


@pytest.mark.parametrize(("probability", "degrees", "value"), T_TABLE)
def test_quantiles_of_students_t_are_those_of_the_table(probability: float, degrees: int, value: float) -> None:
    assert student_t_quantile(probability, degrees) == pytest.approx(value, abs=5e-5)


def test_students_t_with_one_and_two_degrees_has_closed_forms_and_grows_towards_the_normal() -> None:
    for probability in (0.6, 0.9, 0.975, 0.999):
        cauchy = math.tan(math.pi * (probability - 0.5))
        assert student_t_quantile(probability, 1) == pytest.approx(cauchy)
        twice = 2 * probability - 1
        assert student_t_quantile(probability, 2) == pytest.approx(twice * math.sqrt(2 / (1 - twice**2)))
    assert student_t_quantile(0.975, 20_000) == pytest.approx(1.95996, abs=2e-4)


def test_the_interval_of_a_mean_is_students() -> None:
    interval = mean_interval([0.6, 0.7, 0.8])
    assert interval.mean == pytest.approx(0.7)
    assert interval.num_values == 3
    assert interval.high - interval.mean == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-5)
    assert interval.mean - interval.low == pytest.approx(interval.high - interval.mean)
    assert mean_interval([0.5, 0.5]).low == mean_interval([0.5, 0.5]).high == 0.5


def test_one_value_says_nothing_about_the_spread() -> None:
    for interval in (mean_interval([0.4]), paired_bootstrap([0.1], [0.5])):
        assert interval.mean == pytest.approx(0.4)
        assert interval.num_values == 1
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


@pytest.mark.parametrize(("num_right", "num_items"), [(0, 10), (3, 10), (10, 10), (1, 1), (68, 97), (0, 1)])
def test_wilsons_bounds_are_the_shares_that_the_score_test_just_accepts(num_right: int, num_items: int) -> None:
    interval = proportion_interval(num_right, num_items)
    share = num_right / num_items
    assert 0 <= interval.low <= interval.mean == share <= interval.high <= 1
    for bound in (interval.low, interval.high):
        if 0 < bound < 1:
            assert abs(share - bound) / math.sqrt(bound * (1 - bound) / num_items) == pytest.approx(1.959964, rel=1e-5)


def test_wilsons_interval_of_nothing_right_in_ten_is_the_known_one() -> None:
    interval = proportion_interval(0, 10)
    assert (interval.low, interval.high) == (0.0, pytest.approx(0.27753, abs=1e-5))


def test_the_bootstrap_of_few_pairs_is_their_enumeration() -> None:
    before, after = [0, 1, 0, 0], [1, 1, 1, 0]
    changes = np.subtract(after, before)
    means = [np.mean(drawn) for drawn in itertools.product(changes, repeat=4)]
    interval = paired_bootstrap(before, after)
    assert interval.mean == pytest.approx(0.5)
    assert (interval.low, interval.high) == tuple(np.quantile(means, [0.025, 0.975]))
    narrow = paired_bootstrap(before, after, level=0.5)
    assert (narrow.low, narrow.high) == tuple(np.quantile(means, [0.25, 0.75]))


def test_the_bootstrap_of_many_pairs_has_the_width_of_the_normal_and_can_be_repeated() -> None:
    generator = np.random.default_rng(1)
    before = generator.normal(size=400)
    after = before + generator.normal(0.3, 1.0, size=400)  # the items' own spread is gone from the pairs
    interval = paired_bootstrap(list(before), list(after), seed=5)
    error = np.std(after - before, ddof=1) / math.sqrt(400)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert interval == paired_bootstrap(list(before), list(after), seed=5)
    assert interval != paired_bootstrap(list(before), list(after), seed=6)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (0, 1), (1, 6), (5, 5), (6, 1), (3, 4), (0, 10)])
def test_mcnemar_is_the_enumeration_of_all_ways_to_change(lost: int, gained: int) -> None:
    before = [True] * lost + [False] * gained + [True, True, False]
    after = [False] * lost + [True] * gained + [True, True, False]
    changed = lost + gained
    as_extreme = [
        ways for ways in itertools.product((0, 1), repeat=changed)
        if abs(2 * sum(ways) - changed) >= abs(gained - lost)
    ]  # fmt: skip
    assert mcnemar(before, after) == pytest.approx(len(as_extreme) / 2**changed)
    assert mcnemar(before, after) == mcnemar(after, before)


def test_mcnemar_of_many_items_neither_overflows_nor_takes_long() -> None:
    assert mcnemar([True] * 3000 + [False] * 2000, [False] * 3000 + [True] * 2000) < 1e-40


@pytest.mark.parametrize("num_right", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(num_right: int, k: int) -> None:
    samples = [True] * num_right + [False] * (5 - num_right)
    subsets = list(itertools.combinations(samples, k))
    assert pass_at_k(5, num_right, k) == pytest.approx(sum(any(subset) for subset in subsets) / len(subsets))


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_pass_at_k_is_unbiased() -> None:
    chance, num_samples, k = 0.3, 6, 3
    expected = sum(
        math.comb(num_samples, right) * chance**right * (1 - chance) ** (num_samples - right)
        * pass_at_k(num_samples, right, k)
        for right in range(num_samples + 1)
    )  # fmt: skip
    assert expected == pytest.approx(1 - (1 - chance) ** k)


ACCURACIES = [  # before, after the first, second and third stage; a column a task
    [0.10, 0.20, 0.30],
    [0.80, 0.25, 0.20],
    [0.70, 0.90, 0.50],
    [0.60, 0.85, 0.95],
]


def test_transfer_is_that_of_lopez_paz_and_ranzato() -> None:
    assert backward_transfer(ACCURACIES) == pytest.approx(((0.60 - 0.80) + (0.85 - 0.90)) / 2)
    assert forward_transfer(ACCURACIES) == pytest.approx(((0.25 - 0.20) + (0.50 - 0.30)) / 2)


def test_retention_is_told_from_a_tasks_own_stage_on() -> None:
    nan = math.nan
    expected = [[0, nan, nan], [-0.10, 0, nan], [-0.20, -0.05, 0]]
    assert retention_matrix(ACCURACIES) == pytest.approx(np.array(expected), nan_ok=True)


def test_a_single_task_has_no_transfer() -> None:
    assert math.isnan(backward_transfer([[0.1], [0.9]]))
    assert math.isnan(forward_transfer([[0.1], [0.9]]))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: mean_interval([]),
        lambda: mean_interval([0.1, 0.2], level=1.0),
        lambda: proportion_interval(0, 0),
        lambda: proportion_interval(3, 2),
        lambda: paired_bootstrap([], []),
        lambda: paired_bootstrap([1.0], [1.0, 0.0]),
        lambda: paired_bootstrap([1.0], [1.0], num_resamples=0),
        lambda: mcnemar([True], []),
        lambda: pass_at_k(4, 2, 5),
        lambda: pass_at_k(4, 5, 1),
        lambda: pass_at_k(4, 2, 0),
        lambda: backward_transfer([[0.1, 0.2], [0.3, 0.4]]),
        lambda: retention_matrix([]),
    ],
)
def test_what_has_no_answer_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        wrong()
