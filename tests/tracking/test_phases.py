"""The timer of phases on a clock that the tests move."""

import time

import pytest

from sdft_ray.tracking.phases import Counts, PhaseTimer


class Clock:
    """Seconds as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_nested_and_repeated_phases_add_up(clock: Clock) -> None:
    timer = PhaseTimer()
    for _ in range(2):
        with timer.phase("step"):
            clock.now += 1
            with timer.phase("load"):
                clock.now += 2
    assert timer.take() == {"step": 6, "load": 4}


def test_overlapping_entries_of_a_phase_count_once(clock: Clock) -> None:
    timer = PhaseTimer()
    first, second = timer.phase("rollout"), timer.phase("rollout")
    first.__enter__()
    clock.now += 1
    second.__enter__()
    clock.now += 2
    first.__exit__(None, None, None)
    clock.now += 4
    second.__exit__(None, None, None)
    clock.now += 8
    with timer.phase("rollout"):
        clock.now += 16
    assert timer.take() == {"rollout": 1 + 2 + 4 + 16}


def test_a_phase_open_while_times_are_taken_is_split_there(clock: Clock) -> None:
    timer = PhaseTimer()
    with timer.phase("rollout"):
        clock.now += 1
        assert timer.take() == {"rollout": 1}
        clock.now += 2
    clock.now += 4
    assert timer.take() == {"rollout": 2}


def test_taking_starts_anew_and_remembers_which_phases_there_are(clock: Clock) -> None:
    timer = PhaseTimer()
    assert timer.take() == {}
    with timer.phase("wait"):
        clock.now += 1
    timer.take()
    clock.now += 1
    assert timer.take() == {"wait": 0}


def test_a_phase_that_fails_is_timed_and_its_error_goes_on(clock: Clock) -> None:
    timer = PhaseTimer()
    with pytest.raises(ValueError), timer.phase("wait"):
        clock.now += 1
        raise ValueError
    assert timer.take() == {"wait": 1}


def test_counts_add_up_until_they_are_taken_and_keep_their_names() -> None:
    counts = Counts()
    counts.add("rollout/tokens", 3)
    counts.add("rollout/tokens", 4)
    assert counts.take() == {"rollout/tokens": 7}
    assert counts.take() == {"rollout/tokens": 0}
