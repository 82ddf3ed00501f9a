"""What a process does when: spans by the wall clock, recorded around traced steps only.

A process has one recorder, as it has one log: what is timed lies deep in roles that know nothing of traces. While it is
off, a span costs a call and keeps nothing. Wall clocks of one machine are one clock; those of several nodes agree as
far as the nodes are synchronised.
"""

import time
from collections import deque
from types import TracebackType
from typing import Self

from sdft_ray.records import Span

MOST_SPANS = 2**16  # kept of one process; beyond it the oldest go


class OpenSpan:
    """A span as a context manager; without a recorder it only says nothing."""

    __slots__ = ("_began_at", "_facts", "_name", "_recorder", "_start_ns")

    def __init__(self, recorder: "Recorder | None", name: str, facts: dict[str, float | str]):
        self._recorder = recorder
        self._name = name
        self._facts = facts

    def add(self, **facts: float | str) -> None:
        """Adds what is known only inside the span, such as how many tokens were written."""
        if self._recorder is not None:
            self._facts |= facts

    def __enter__(self) -> Self:
        if self._recorder is not None:
            self._start_ns, self._began_at = time.time_ns(), time.perf_counter_ns()
            self._recorder.open[id(self)] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._recorder is not None:
            del self._recorder.open[id(self)]
            self._recorder.ended.append(self.until_now())

    def until_now(self) -> Span:
        """The span as if it ended now. Its length is no matter of the wall clock, which may be set meanwhile."""
        end_ns = self._start_ns + time.perf_counter_ns() - self._began_at
        return Span(name=self._name, start_ns=self._start_ns, end_ns=end_ns, facts=dict(self._facts))


class Recorder:
    """Spans of this process. What appends may be any of its threads."""

    def __init__(self) -> None:
        self.ended: deque[Span] = deque(maxlen=MOST_SPANS)
        self.open: dict[int, OpenSpan] = {}

    def spans(self) -> tuple[Span, ...]:
        """All spans; of those that go on, the part until now, which says so."""
        going_on = [span.until_now() for span in list(self.open.values())]
        for span in going_on:
            span.facts["goes_on"] = "true"
        return (*self.ended, *going_on)


_NOT_RECORDED = OpenSpan(None, "", {})
_recorder: Recorder | None = None


def begin_recording() -> None:
    """Records spans of this process from now on; changes nothing where they are recorded already."""
    global _recorder
    _recorder = _recorder or Recorder()


def end_recording() -> None:
    """Records no more, and forgets what was recorded."""
    global _recorder
    _recorder = None


def recorded() -> tuple[Span, ...]:
    """What was recorded so far; nothing where nothing is."""
    return () if _recorder is None else _recorder.spans()


def span(name: str, **facts: float | str) -> OpenSpan:
    """Times the block it is entered for, if spans are recorded.

    Args:
        name: what is done, such as "sample".
        facts: what it is done to: counts and versions.
    """
    return _NOT_RECORDED if _recorder is None else OpenSpan(_recorder, name, facts)


def add_span(name: str, start_ns: int, end_ns: int, **facts: float | str) -> None:
    """Records what was timed elsewhere, in nanoseconds of the wall clock since 1970."""
    if _recorder is not None:
        _recorder.ended.append(Span(name=name, start_ns=start_ns, end_ns=end_ns, facts=facts))
