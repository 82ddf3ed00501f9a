"""How long the parts of a step take."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseTimer:
    """Adds up the wall time of named phases until somebody takes it. Phases may be nested."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the block; a phase entered again adds to its time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The times since the last call by metric key (`loop/wait_s` for the phase "wait"); starts anew."""
        taken = {f"loop/{name}_s": seconds for name, seconds in self._seconds.items()}
        self._seconds.clear()
        return taken
