"""How the command ends: an exit code and at most one message."""

import asyncio
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from sdft_ray.errors import SdftError

FAILED, INTERRUPTED, TERMINATED = 1, 130, 143


def first_cause(error: BaseException | None) -> BaseException | None:
    """The error itself; of a group of tasks the first, which is the cause: the others fell with it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Outcome:
    """Turns however its block ends into an exit code and at most one message, the last of the output."""

    def __init__(self) -> None:
        self.code = 0
        self.remedy = "go on with resume=auto and this run's name"  # of a run that was stopped
        self.log: Path | None = None  # where a traceback goes; on the terminal where its folder is not there

    def follow(self, log: Path) -> None:
        """Sends what goes wrong from now on to a run's log."""
        self.log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        error = first_cause(error)
        is_terminated = isinstance(error, SystemExit) and error.code == signal.SIGTERM  # while the run started
        if error is None or (isinstance(error, SystemExit) and not is_terminated):
            return False
        if is_terminated or isinstance(error, asyncio.CancelledError):  # nobody cancels a job but its SIGTERM handler
            self._end(TERMINATED, f"terminated; {self.remedy}")
        elif isinstance(error, KeyboardInterrupt):
            self._end(INTERRUPTED, f"interrupted; {self.remedy}")
        elif isinstance(error, SdftError):
            self._end(FAILED, str(error))
        else:
            self._end(FAILED, self._unexpected(error))
        return True

    def _unexpected(self, error: BaseException) -> str:
        details = "".join(traceback.format_exception(error))
        if not self._logged(details):
            return details
        return f"{type(error).__name__}: {error}\nIts traceback: {self.log}"

    def _logged(self, text: str) -> bool:
        """True when the log has taken the text: a full disk must not hide the error that is being told."""
        if self.log is None or not self.log.parent.is_dir():
            return False
        try:
            with self.log.open("a") as file:
                file.write(text)
        except OSError:
            return False
        return True

    def _end(self, code: int, message: str) -> None:
        self.code = code
        self._logged(f"{time.strftime('%Y-%m-%d %H:%M:%S')} error: {message}\n")
        with suppress(OSError):  # a closed pipe, or a full disk: the log has it, and the code says how it ended
            print(f"\nerror: {message}", file=sys.stderr, flush=True)
