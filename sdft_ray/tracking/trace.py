"""The spans of a few steps as a Chrome trace, which Perfetto opens: a process for each worker, a row for what overlaps.

A trace is JSON: `traceEvents` with times in microseconds since the first of them, `otherData` with that time by the
clock, the steps, and how far clocks of several nodes agree.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sdft_ray.records import Span

STEP = "step"
WAIT = "wait"
LEAST_WAIT_NS = 1_000_000  # a shorter gap between two spans of a worker is the call, and no wait
PER_SAMPLE = ("rollout", "score")  # phases of the loop that every sample has for itself
FOR_SAMPLES = (*PER_SAMPLE, "sample")
CLOCK = "wall clocks: one clock on one machine; between nodes they agree as far as the nodes are synchronised"
DRIVER, STEPS, PHASES, SAMPLES = "driver", "steps", "phases", "samples"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessSpans:
    """What one process of a run has done."""

    name: str  # such as "rollout worker 0", or DRIVER
    node: str
    process_id: int
    spans: Sequence[Span]


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The traced steps: each from its begin to the begin of the next one."""

    steps: Mapping[int, Span]  # by number, in order
    end_ns: int

    @property
    def start_ns(self) -> int:
        """The begin of the first step."""
        return min(span.start_ns for span in self.steps.values())

    def step_of(self, span: Span) -> int:
        """The step that a span belongs to.

        What makes samples belongs to the first step that ends later, which can train on them. Everything else belongs
        to the last step that has begun: a save follows its step.
        """
        if span.name in FOR_SAMPLES:
            ending = [number for number, step in self.steps.items() if step.end_ns > span.end_ns]
            return min(ending, default=max(self.steps) + 1)
        begun = [number for number, step in self.steps.items() if step.start_ns <= span.start_ns]
        return max(begun, default=min(self.steps))

    def holds(self, span: Span) -> bool:
        """True when some of the span lies in the window."""
        return span.start_ns < self.end_ns and span.end_ns > self.start_ns


def chrome_trace(window: Window, driver: ProcessSpans, workers: Iterable[ProcessSpans]) -> dict[str, Any]:
    """The trace of a window: the driver's steps, phases and samples, and below it a process for each worker.

    Args:
        window: the steps, of which an event has one as its argument `step`.
        driver: its spans.
        workers: theirs; between two spans a worker waits.
    """
    rows = [(driver, rows) for rows in [_rows_of_driver(driver, window)]]
    rows += [(worker, _rows_of_worker(worker, window)) for worker in workers]
    spans = [span for _, of_process in rows for _, row in of_process for span in row]
    origin_ns = min([window.start_ns, *(span.start_ns for span in spans)])
    events: list[dict[str, Any]] = []
    for number, (process, of_process) in enumerate(rows, start=1):
        title = f"{process.name} ({process.node}, process {process.process_id})"
        events += _metadata("process", number, 0, title, number)
        for index, (title, row) in enumerate(of_process, start=1):
            events += _metadata("thread", number, index, title, index)
            events += [_event(span, window, origin_ns, number, index, process.name) for span in row]
    began = datetime.fromtimestamp(origin_ns / 1e9, UTC).isoformat(timespec="microseconds")
    other = {"began": began, "steps": list(window.steps), "clock": CLOCK}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": other}


def _rows_of_driver(driver: ProcessSpans, window: Window) -> list[tuple[str, list[Span]]]:
    spans = [span for span in driver.spans if window.holds(span) and span.name != STEP]
    per_sample = [span for span in spans if span.name in PER_SAMPLE]
    phases = [span for span in spans if span.name not in PER_SAMPLE]
    return [(STEPS, list(window.steps.values())), *_named(PHASES, lanes(phases)), *_named(SAMPLES, lanes(per_sample))]


def _rows_of_worker(worker: ProcessSpans, window: Window) -> list[tuple[str, list[Span]]]:
    spans = [span for span in worker.spans if window.holds(span)]
    first, *others = lanes(spans) or [[]]
    return _named("work", [sorted([*first, *waits(spans, window)], key=lambda span: span.start_ns), *others])


def lanes(spans: Iterable[Span]) -> list[list[Span]]:
    """The spans in as few rows as hold them without an overlap, the longest-free row first."""
    rows: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: (span.start_ns, -span.end_ns)):
        free = next((row for row in rows if row[-1].end_ns <= span.start_ns), None)
        if free is None:
            rows.append([span])
        else:
            free.append(span)
    return rows


def waits(spans: Iterable[Span], window: Window) -> list[Span]:
    """The parts of the window in which none of a worker's spans goes on."""
    gaps, free_since = [], window.start_ns
    for span in sorted(spans, key=lambda span: span.start_ns):
        gaps.append((free_since, span.start_ns))
        free_since = max(free_since, span.end_ns)
    gaps.append((free_since, window.end_ns))
    return [
        Span(name=WAIT, start_ns=start, end_ns=end, facts={}) for start, end in gaps if end - start >= LEAST_WAIT_NS
    ]


def _named(name: str, rows: Sequence[list[Span]]) -> list[tuple[str, list[Span]]]:
    return [(name if len(rows) == 1 else f"{name} {index}", row) for index, row in enumerate(rows, start=1)]


def _event(span: Span, window: Window, origin_ns: int, process: int, row: int, category: str) -> dict[str, Any]:
    step = span.facts.get(STEP, window.step_of(span))
    return {
        "ph": "X",
        "name": f"{STEP} {step}" if span.name == STEP else span.name,
        "cat": category,
        "pid": process,
        "tid": row,
        "ts": (span.start_ns - origin_ns) / 1e3,
        "dur": (span.end_ns - span.start_ns) / 1e3,
        "args": {STEP: step, **span.facts},
    }


def _metadata(kind: str, process: int, row: int, title: str, place: int) -> list[dict[str, Any]]:
    where = {"ph": "M", "pid": process, "tid": row}
    return [
        {**where, "name": f"{kind}_name", "args": {"name": title}},
        {**where, "name": f"{kind}_sort_index", "args": {"sort_index": place}},
    ]
