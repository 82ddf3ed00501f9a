"""What SIGTERM does, which a scheduler sends before it kills: training ends behind the step, all else at once."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Termination:
    """Ends the task that listens: at once, or where it trains behind a step, with a checkpoint."""

    def __init__(self, grace_s: float = 0.0, say: Callable[[str], None] = print):
        """Hears nothing yet.

        Args:
            grace_s: how long a step may go on; 0 ends training at once, too.
            say: tells the user that the signal was heard.
        """
        self._grace_s = grace_s
        self._say = say
        self._trains = False
        self.is_asked = False  # True when training is to end behind the step it is in
        self._end: Callable[[], object] = lambda: None
        self._ends_at = 0.0  # of the event loop's clock: when the grace is over
        self._timer: asyncio.TimerHandle | None = None  # of the grace, while training goes on

    def listen(self) -> None:
        """Begins; called once Ray has started, since Ray puts a handler of its own in place.

        A thread beside a notebook's cannot: Python handles signals in the main thread alone.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        task = asyncio.current_task()
        assert task is not None
        self._end = task.cancel
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._hear)

    @contextmanager
    def while_training(self) -> Iterator[None]:
        """Training, which looks at `is_asked` behind every step; the grace is for it alone, not for an export."""
        self._trains = True
        if self.is_asked:  # it begins again, with a learner that was restored
            self._end_after_grace()
        try:
            yield
        finally:
            self._trains = False
            if self._timer is not None:
                self._timer.cancel()

    def _hear(self) -> None:
        if not self._trains or not self._grace_s or self.is_asked:  # a second signal does not wait
            self._end()
            return
        self.is_asked = True
        self._say(f"SIGTERM        ending with a checkpoint behind this step, if it ends within {self._grace_s:g} s")
        self._ends_at = asyncio.get_running_loop().time() + self._grace_s
        self._end_after_grace()

    def _end_after_grace(self) -> None:
        self._timer = asyncio.get_running_loop().call_at(self._ends_at, self._end)
