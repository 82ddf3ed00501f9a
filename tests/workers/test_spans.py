"""Spans are kept while they are recorded, and cost nothing to speak of while they are not."""

import time
from collections.abc import Iterator

import pytest

from sdft_ray.workers.spans import add_span, begin_recording, end_recording, recorded, span


@pytest.fixture(autouse=True)
def off() -> Iterator[None]:
    yield
    end_recording()


def test_nothing_is_kept_while_nothing_is_recorded() -> None:
    with span("sample", sequences=1) as sampling:
        sampling.add(completion_tokens=3)
    add_span("optimizer", 1, 2)
    begin_recording()
    assert recorded() == ()


def test_a_span_has_the_wall_clocks_time_and_what_was_found_out_inside() -> None:
    begin_recording()
    before = time.time_ns()
    with span("sample", sequences=1) as sampling:
        time.sleep(0.01)
        sampling.add(completion_tokens=3)
    (one,) = recorded()
    assert before <= one.start_ns < one.end_ns <= time.time_ns()
    assert one.end_ns - one.start_ns >= 10_000_000
    assert (one.name, one.facts) == ("sample", {"sequences": 1, "completion_tokens": 3})


def test_what_goes_on_is_told_up_to_now_and_again_when_it_has_ended() -> None:
    begin_recording()
    with span("sample"):
        (part,) = recorded()
        begin_recording()  # which changes nothing
    (whole,) = recorded()
    assert part.facts == {"goes_on": "true"} and whole.facts == {}
    assert part.start_ns == whole.start_ns and part.end_ns <= whole.end_ns


def test_a_block_that_fails_has_a_span_and_its_error_goes_on() -> None:
    begin_recording()
    with pytest.raises(ValueError), span("load weights"):
        raise ValueError
    assert [one.name for one in recorded()] == ["load weights"]


def test_recording_that_ends_inside_a_span_is_over() -> None:
    begin_recording()
    with span("sample"):
        end_recording()
    assert recorded() == ()
