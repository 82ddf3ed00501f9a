import pytest

from sdft_ray.tracking.metrics import check_declared
from sdft_ray.tracking.phases import PhaseTimer


def test_nested_and_repeated_phases_add_up() -> None:
    timer = PhaseTimer()
    for _ in range(2):
        with timer.phase("step"), timer.phase("wait"):
            pass
    taken = timer.take()
    assert taken.keys() == {"loop/step_s", "loop/wait_s"}
    assert taken["loop/step_s"] >= taken["loop/wait_s"] > 0


def test_taking_starts_anew() -> None:
    timer = PhaseTimer()
    with timer.phase("wait"):
        pass
    timer.take()
    assert timer.take() == {}


def test_a_phase_that_fails_is_timed_and_its_error_goes_on() -> None:
    timer = PhaseTimer()
    with pytest.raises(ValueError), timer.phase("wait"):
        raise ValueError
    assert "loop/wait_s" in timer.take()


def test_the_phases_of_the_loop_are_declared_metrics() -> None:
    timer = PhaseTimer()
    for name in ("step", "wait", "load_weights"):
        with timer.phase(name):
            pass
    check_declared(timer.take())
