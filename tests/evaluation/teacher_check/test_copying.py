"""What counts as copied from the demonstration."""

import pytest

from sdft_ray.evaluation.teacher_check.copying import is_copied

DEMONSTRATION = tuple(range(100, 140))


@pytest.mark.parametrize(
    ("completion", "copied"),
    [
        (DEMONSTRATION, True),
        (DEMONSTRATION[5:20], True),
        ((1, 2, *DEMONSTRATION), True),  # 33 of 35 runs
        ((*range(20), *DEMONSTRATION[:10]), False),  # 3 of 23 runs
        (DEMONSTRATION[::-1], False),
        (DEMONSTRATION[:4] + DEMONSTRATION[10:14], False),
        ((), False),
    ],
)
def test_most_runs_of_eight_tokens_have_to_stand_in_it(completion: tuple[int, ...], copied: bool) -> None:
    assert is_copied(completion, DEMONSTRATION) == copied


def test_four_of_five_runs_are_enough_and_three_are_not() -> None:
    assert is_copied((*DEMONSTRATION[:11], 1), DEMONSTRATION)
    assert not is_copied((*DEMONSTRATION[:10], 1, 2), DEMONSTRATION)


def test_a_short_completion_is_copied_only_if_it_is_the_demonstration() -> None:
    assert is_copied((7, 8), (7, 8))
    assert not is_copied((7,), (7, 8))
    assert not is_copied((7, 8), (7, 8, 9))
    assert not is_copied((), ())
