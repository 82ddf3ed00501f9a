"""A Chrome trace of spans whose times the tests choose, in milliseconds."""

from collections.abc import Sequence
from typing import Any

from sdft_ray.records import Span
from sdft_ray.tracking.trace import DRIVER, ProcessSpans, Window, chrome_trace, lanes, waits

DAY_NS = 1_790_000_000 * 10**9


def made(name: str, start_ms: float, end_ms: float, **facts: Any) -> Span:
    return Span(name=name, start_ns=DAY_NS + round(start_ms * 1e6), end_ns=DAY_NS + round(end_ms * 1e6), facts=facts)


def process(name: str, *spans: Span) -> ProcessSpans:
    return ProcessSpans(name=name, node="10.0.0.1", process_id=7, spans=spans)


WINDOW = Window(
    steps={10: made("step", 100, 200, step=10, sequences=4), 11: made("step", 220, 300, step=11, sequences=4)},
    end_ns=DAY_NS + 310 * 10**6,
)


def events(trace: dict[str, Any], phase: str = "X") -> list[dict[str, Any]]:
    return [event for event in trace["traceEvents"] if event["ph"] == phase]


def rows(trace: dict[str, Any]) -> dict[tuple[int, int], list[tuple[float, float]]]:
    placed: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events(trace):
        placed.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    return placed


def traced(*workers: ProcessSpans, driver: Sequence[Span] = ()) -> dict[str, Any]:
    return chrome_trace(WINDOW, process(DRIVER, *driver), workers)


def test_steps_and_spans_have_their_times_in_microseconds_and_their_step() -> None:
    trace = traced(process("rollout worker 0", made("sample", 110, 150, sequences=1, completion_tokens=9)))
    by_name = {event["name"]: event for event in events(trace) if event["name"] != "wait"}
    assert list(by_name) == ["step 10", "step 11", "sample"]
    assert (by_name["step 11"]["ts"], by_name["step 11"]["dur"]) == (120_000, 80_000)
    assert by_name["sample"]["ts"] == 10_000
    assert by_name["sample"]["args"] == {"step": 10, "sequences": 1, "completion_tokens": 9}
    assert by_name["step 11"]["args"]["sequences"] == 4
    assert trace["otherData"]["steps"] == [10, 11]
    assert trace["otherData"]["began"].startswith("2026-09-21T")


def test_what_makes_samples_belongs_to_the_step_that_can_train_on_them_and_a_save_to_the_one_before() -> None:
    belongs = {
        (name, *times): WINDOW.step_of(made(name, *times))
        for name, *times in [
            ("sample", 90, 150),
            ("sample", 199, 215),
            ("score", 205, 215),
            ("rollout", 301, 308),
            ("save", 201, 215),
            ("load weights", 180, 203),
            ("answer", 301, 305),
        ]
    }
    assert list(belongs.values()) == [10, 11, 11, 12, 10, 10, 11]


def test_what_has_begun_before_the_first_step_is_in_it_and_no_time_is_negative() -> None:
    trace = traced(process("rollout worker 0", made("sample", 90, 120), made("sample", 10, 99)))
    assert [event["ts"] for event in events(trace) if event["name"] == "sample"] == [0.0]
    assert min(event["ts"] for event in events(trace)) == 0.0


def test_what_begins_behind_the_window_is_left_out() -> None:
    trace = traced(process("learner worker 0", made("save", 309, 400), made("publish", 310, 320)))
    assert [event["name"] for event in events(trace) if event["pid"] == 2] == ["wait", "save"]


def test_spans_that_overlap_have_rows_of_their_own() -> None:
    overlapping = [
        made("sample", 100, 200),
        made("sample", 120, 150),
        made("sample", 130, 210),
        made("sample", 150, 160),
    ]
    assert [[span.start_ns - DAY_NS for span in row] for row in lanes(overlapping)] == [
        [100 * 10**6],
        [120 * 10**6, 150 * 10**6],
        [130 * 10**6],
    ]
    trace = traced(
        process("rollout worker 0", *overlapping), driver=[made("rollout", 100, 180), made("score", 170, 190)]
    )
    for placed in rows(trace).values():
        placed.sort()
        assert all(end <= start for (_, end), (start, _) in zip(placed, placed[1:], strict=False))


def test_a_worker_waits_where_none_of_its_spans_goes_on() -> None:
    busy = [
        made("load weights", 90, 120),
        made("sample", 130, 180),
        made("sample", 140, 250),
        made("sample", 250.5, 280),
    ]
    assert [((gap.start_ns - DAY_NS) / 1e6, (gap.end_ns - DAY_NS) / 1e6) for gap in waits(busy, WINDOW)] == [
        (120, 130),
        (280, 310),
    ]
    assert [(gap.end_ns - gap.start_ns) / 1e6 for gap in waits([], WINDOW)] == [210]


def test_processes_and_rows_are_named_and_sorted() -> None:
    trace = traced(process("teacher worker 1", made("score", 110, 120)), driver=[made("load_weights", 190, 200)])
    names = {
        (event["pid"], event["tid"], event["name"]): event["args"]
        for event in events(trace, "M")
        if "name" in event["args"]
    }
    assert names[1, 0, "process_name"] == {"name": "driver (10.0.0.1, process 7)"}
    assert names[2, 0, "process_name"] == {"name": "teacher worker 1 (10.0.0.1, process 7)"}
    assert [names[1, row, "thread_name"]["name"] for row in (1, 2)] == ["steps", "phases"]
