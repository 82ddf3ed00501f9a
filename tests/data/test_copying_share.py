"""How much of a completion stands in its demonstration."""

import pytest

from sdft_ray.data.copying import copied_share
from sdft_ray.records import Rollout

END = 0
DEMONSTRATION = (11, 12, 13, 14, 15, 16, END)


def share(*completion: int, truncated: bool = False) -> float:
    rollout = Rollout(
        prompt_tokens=(1,),
        completion_tokens=completion,
        logprobs=(-1.0,) * len(completion),
        weight_version=0,
        truncated=truncated,
        num_sampled=len(completion),
    )
    return copied_share(rollout, DEMONSTRATION)


def test_a_demonstration_is_all_copied_and_a_text_that_shares_no_run_is_not() -> None:
    assert share(*DEMONSTRATION) == 1
    assert share(21, 22, 23, 24, 25, END) == 0


def test_single_tokens_and_short_runs_of_the_demonstration_are_no_copies() -> None:
    assert share(16, 15, 14, 13, 12, 11, END) == 0
    assert share(11, 12, 13, 21, 14, 15, 16, END) == 0


def test_the_share_is_that_of_the_runs_of_four_tokens() -> None:
    assert share(21, 11, 12, 13, 14, 15, 22, END) == 2 / 4  # 11-14 and 12-15 of four runs
    assert share(11, 12, 13, 14, 11, 12, 13, 14, END) == 2 / 5  # each occurrence counts


def test_the_token_that_ends_the_turn_is_no_part_of_the_text() -> None:
    assert share(21, 14, 15, 16, END) == 0  # 14, 15, 16, END would be a run
    assert share(13, 14, 15, 16, truncated=True) == 1
    assert share(13, 14, 15, 16, 17, truncated=True) == 1 / 2


@pytest.mark.parametrize(("completion", "expected"), [((12, 13, END), 1), ((13, 12, END), 0), ((END,), 0)])
def test_a_completion_shorter_than_a_run_is_one_run(completion: tuple[int, ...], expected: float) -> None:
    assert share(*completion) == expected


def test_nothing_is_copied_where_there_is_no_demonstration() -> None:
    rollout = Rollout(
        prompt_tokens=(1,),
        completion_tokens=(5, END),
        logprobs=(-1.0, -1.0),
        weight_version=0,
        truncated=False,
        num_sampled=2,
    )
    assert copied_share(rollout, ()) == 0
