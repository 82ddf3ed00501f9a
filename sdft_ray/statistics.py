"""Means with intervals, paired comparisons, pass@k and transfer between tasks: no claim without an interval.

Everything is plain arithmetic on numbers that evaluations have written down; nothing here knows where they came from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLED_AT_ONCE = 2_000_000  # values drawn together by the bootstrap: 16 MB, however many items there are


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean with the bounds of its confidence interval.

    `low` and `high` are NaN, never equal to the mean, where a single value tells nothing about the spread.
    """

    mean: float
    low: float
    high: float
    num_values: int  # seeds, items or pairs it was made of


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean of independent runs (seeds) with Student's t interval; one value has NaN bounds.

    Raises:
        ValueError: there is no value, or `level` is not inside (0, 1).
    """
    _check_level(level)
    count = len(values)
    if count == 0:
        raise ValueError("the mean of no value was asked for")
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean=mean, low=math.nan, high=math.nan, num_values=1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = student_t_quantile((1 + level) / 2, count - 1) * math.sqrt(variance / count)
    return Interval(mean=mean, low=mean - half, high=mean + half, num_values=count)


def proportion_interval(num_right: int, num_items: int, level: float = 0.95) -> Interval:
    """The share of right items with Wilson's score interval (Wilson 1927), which stays inside [0, 1].

    Raises:
        ValueError: there is no item, more are right than there are, or `level` is not inside (0, 1).
    """
    _check_level(level)
    if not 0 <= num_right <= num_items or num_items == 0:
        raise ValueError(f"{num_right} right of {num_items} items is no share")
    share = num_right / num_items
    spread = NormalDist().inv_cdf((1 + level) / 2) ** 2 / num_items
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    # Exactly 0 and 1 at the ends: rounding would leave 1e-17 there, or go below zero.
    low = 0.0 if num_right == 0 else centre - half
    high = 1.0 if num_right == num_items else centre + half
    return Interval(mean=share, low=low, high=high, num_values=num_items)


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    *,
    seed: int = 0,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """The mean of after - before on the same items, with the percentile bootstrap's interval over items.

    The same arguments give the same bounds. A single pair has NaN bounds.

    Args:
        before: one value an item, such as 0 and 1 for wrong and right.
        after: the same items in the same order.
        seed: of the resampling.
        num_resamples: draws of as many items as there are, with replacement.
        level: share of resampled means inside the interval.

    Raises:
        ValueError: there is no pair, an item has no partner, nothing is resampled, or `level` is not inside (0, 1).
    """
    _check_level(level)
    count = _num_pairs(before, after)
    if num_resamples < 1:
        raise ValueError(f"num_resamples={num_resamples} draws nothing")
    changes = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    mean = float(changes.mean())
    if count == 1:
        return Interval(mean=mean, low=math.nan, high=math.nan, num_values=1)
    generator = np.random.default_rng(seed)
    at_once = max(1, RESAMPLED_AT_ONCE // count)
    means: list[np.ndarray] = []
    for start in range(0, num_resamples, at_once):
        drawn = generator.integers(count, size=(min(at_once, num_resamples - start), count))
        means.append(changes[drawn].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=mean, low=float(low), high=float(high), num_values=count)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """The exact two-sided p-value of McNemar's test on the same items; 1 where no item changed.

    Under the null hypothesis each changed item is as likely to have become right as wrong, so the number of either is
    binomial with probability 1/2.

    Raises:
        ValueError: there is no pair, or an item has no partner.
    """
    _num_pairs(before, after)
    pairs = [(bool(earlier), bool(later)) for earlier, later in zip(before, after, strict=True)]
    lost, gained = pairs.count((True, False)), pairs.count((False, True))
    changed = lost + gained
    tail = sum(math.comb(changed, fewer) for fewer in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail / 2**changed)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several, in their order (Holm 1979).

    Rejecting all those up to a level is a mistake about any of them with at most that chance, whether or not the tests
    depend on one another.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The chance that at least one of k samples is right: 1 - C(n - c, k) / C(n, k) with n samples, c of them right.

    Unbiased, where 1 - (1 - c/n)^k is not (Chen et al. 2021, arXiv 2107.03374, section 2.1).

    Raises:
        ValueError: k is not in 1..num_samples, or num_right not in 0..num_samples.
    """
    if not 1 <= k <= num_samples or not 0 <= num_right <= num_samples:
        raise ValueError(f"pass@{k} of {num_right} right among {num_samples} samples does not exist")
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def retention_matrix(accuracies: Sequence[Sequence[float]]) -> np.ndarray:
    """What was kept of each task: its accuracy after a stage minus that right after its own stage.

    Args:
        accuracies: [T + 1, T] as in `backward_transfer`.

    Returns:
        [T stages, T tasks]: zero on the diagonal, negative where a task was forgotten, NaN before it was taught.
    """
    table = _accuracies(accuracies)[1:]
    kept = table - np.diag(table)
    kept[np.triu_indices_from(kept, k=1)] = math.nan
    return kept


def backward_transfer(accuracies: Sequence[Sequence[float]]) -> float:
    """Mean over all tasks but the last of (accuracy at the end - accuracy right after the task's own stage).

    Lopez-Paz and Ranzato 2017 (arXiv 1706.08840), section 2; negative is forgetting. NaN for a single task.

    Args:
        accuracies: [T + 1, T], tasks in the order in which they were taught: row 0 before any training, row s after
            stage s.

    Raises:
        ValueError: the table has another shape.
    """
    kept = retention_matrix(accuracies)[-1, :-1]
    return float(kept.mean()) if kept.size else math.nan


def forward_transfer(accuracies: Sequence[Sequence[float]]) -> float:
    """Mean over all tasks but the first of (accuracy right before the task's own stage - accuracy before training).

    Lopez-Paz and Ranzato 2017 (arXiv 1706.08840), section 2, where the network before training is a random one; here it
    is the base model. NaN for a single task.

    Args:
        accuracies: [T + 1, T] as in `backward_transfer`.

    Raises:
        ValueError: the table has another shape.
    """
    table = _accuracies(accuracies)
    gained = np.diag(table)[1:] - table[0, 1:]
    return float(gained.mean()) if gained.size else math.nan


def student_t_quantile(probability: float, degrees: int) -> float:
    """The value below which Student's t with `degrees` degrees of freedom lies with a probability in [0.5, 1)."""
    low, high = 0.0, math.pi / 2
    middle = high / 2
    while low < middle < high:  # bisection on theta = atan(t / sqrt(degrees)), until floats between them run out
        low, high = (middle, high) if _below(middle, degrees) < probability else (low, middle)
        middle = (low + high) / 2
    return math.tan(middle) * math.sqrt(degrees)


def _below(theta: float, degrees: int) -> float:
    """P(T < sqrt(degrees) tan theta): the finite sums 26.7.3 and 26.7.4 of Abramowitz and Stegun."""
    cosine = math.cos(theta)
    odd = degrees % 2
    term, inner = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(odd, degrees - 1, 2):
        inner += term
        term *= cosine**2 * (power + 1) / (power + 2)
    within = math.sin(theta) * inner
    return 0.5 + ((theta + within) / math.pi if odd else within / 2)


def _num_pairs(before: Sequence[float], after: Sequence[float]) -> int:
    if len(before) != len(after) or len(before) == 0:
        raise ValueError(f"{len(before)} values before and {len(after)} after are no pairs")
    return len(before)


def _accuracies(rows: Sequence[Sequence[float]]) -> np.ndarray:
    table = np.array(rows, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] + 1 or not table.size:
        raise ValueError(f"accuracies have the shape {list(table.shape)}, not [T + 1, T]")
    return table


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not inside (0, 1)")
