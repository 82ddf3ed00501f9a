"""How long the parts of a step take, and what is counted in them."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sdft_ray.workers.spans import span


class PhaseTimer:
    """Adds up the wall time of phases until `take` reads it. A phase has the name of its metric.

    Phases may be nested, and one phase may be open several times at once, as with concurrent producers: what counts is
    the time during which it is open at least once.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._open: Counter[str] = Counter()
        self._since: dict[str, float] = {}  # of an open phase: when it was opened or last taken

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the block; a phase entered again adds to its time. In a trace it is a span without role and unit."""
        if not self._open[name]:
            self._since[name] = time.perf_counter()
        self._open[name] += 1
        try:
            with span(name.rpartition("/")[2].removesuffix("_s")):
                yield
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                self._add(name)

    def take(self) -> dict[str, float]:
        """The seconds of every phase since the last call, open ones up to now; 0.0 for one that has not been open."""
        for name in self._open:
            if self._open[name]:
                self._add(name)
        taken = {name: self._seconds.get(name, 0.0) for name in self._open}
        self._seconds.clear()
        return taken

    def _add(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since[name]
        self._since[name] = now


class Counts:
    """Adds up counts until `take` reads them. A count has the name of its metric."""

    def __init__(self) -> None:
        self._counts: dict[str, float] = {}

    def add(self, name: str, count: int) -> None:
        """Adds `count` to what was counted under `name`."""
        self._counts[name] = self._counts.get(name, 0.0) + count

    def take(self) -> dict[str, float]:
        """What was counted since the last call; 0.0 for a name under which nothing was."""
        taken = self._counts
        self._counts = dict.fromkeys(taken, 0.0)
        return taken
