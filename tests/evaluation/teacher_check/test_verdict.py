"""What is concluded, and that nothing is concluded from an interval that holds 0."""

import pytest

from sdft_ray.evaluation.teacher_check.measure import Measured
from sdft_ray.evaluation.teacher_check.verdict import Usable, Verdict, compare, judge
from tests.evaluation.teacher_check.asked import comparison, half_right, measured

NUM = 32


def right(num_right: int, logprob: float = -1.0) -> Measured:
    return half_right(num_right, NUM, logprob)


def verdict(student: int, teacher: int, wrong: int) -> Verdict:
    return judge(comparison(right(student), {"short": right(teacher), "long": right(0)}, right(wrong)), seed=0)


@pytest.mark.parametrize(
    ("student", "teacher", "wrong", "usable"),
    [
        (2, 30, 2, Usable.YES),
        (10, 12, 8, Usable.UNDECIDED),  # two examples more may be chance
        (0, 0, 0, Usable.UNDECIDED),
        (32, 32, 0, Usable.UNDECIDED),  # nothing to gain
        (2, 30, 30, Usable.UNDECIDED),  # any demonstration does it
        (30, 2, 0, Usable.NO),
        (2, 14, 30, Usable.NO),  # the wrong one does it better
    ],
)
def test_the_verdict_follows_from_gain_and_control(student: int, teacher: int, wrong: int, usable: Usable) -> None:
    assert verdict(student, teacher, wrong).usable is usable


def test_gains_are_paired_and_in_the_right_direction() -> None:
    found = verdict(2, 30, 4)
    assert found.gain.interval.mean == pytest.approx(28 / 32)
    assert (found.gain.before, found.gain.after) == (2 / 32, 30 / 32)
    assert found.content.interval.mean == pytest.approx(26 / 32)
    assert 0 < found.gain.interval.low < found.gain.interval.mean < found.gain.interval.high


def test_the_gain_allows_for_having_chosen_the_best_of_several_templates() -> None:
    alone = judge(comparison(right(2), {"short": right(30)}, right(2)), seed=0)
    assert alone.gain.level == pytest.approx(0.95)
    assert alone.lead is None
    assert verdict(2, 30, 2).gain.level == pytest.approx(0.975)


def test_a_handful_of_examples_decides_nothing_however_alike_they_are() -> None:
    """The bootstrap of three equal changes draws nothing else; the exact test knows better."""
    few = compare(half_right(0, 3, -1.0), half_right(3, 3, -1.0), level=0.95, seed=0)
    assert few.interval.low == 1.0
    assert few.sign == 0
    assert compare(half_right(0, 8, -1.0), half_right(8, 8, -1.0), level=0.95, seed=0).sign == 1


def test_without_answers_the_logprob_decides() -> None:
    def unscored(logprob: float) -> Measured:
        return measured([None] * 8, [logprob + 0.1 * (place % 3) for place in range(8)])

    found = judge(comparison(unscored(-3), {"short": unscored(-1), "long": unscored(-2)}, unscored(-4)), seed=0)
    assert found.usable is Usable.YES
    assert (found.gain.measure, found.decided_by, found.second) == ("logprob", "logprob", "long")
    assert found.gain.interval.mean == pytest.approx(2)


def test_the_best_template_is_told_with_its_lead_and_what_decided_it() -> None:
    def lead(short: Measured, long: Measured) -> tuple[str, int]:
        found = judge(comparison(right(0), {"short": short, "long": long}, right(0)), seed=0)
        assert found.lead is not None and found.second == "long"
        return found.decided_by, found.lead.sign

    assert lead(right(30), right(10)) == ("accuracy", 1)
    assert lead(right(30), right(29)) == ("accuracy", 0)
    assert lead(right(30, -1.0), right(30, -2.0)) == ("logprob", 1)


def test_the_same_seed_gives_the_same_verdict() -> None:
    assert verdict(3, 25, 6) == verdict(3, 25, 6)
