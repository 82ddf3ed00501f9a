"""A run outlasts its terminal: a pipe that is closed, or a full disk below standard output, ends no training.

A module of its own, since it is about the process and not about any run. `logs/driver.log` has every line.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class _Outlasting:
    """A stream that takes what it is given, and drops what cannot be written."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, or drops."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes what was buffered, or keeps it."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def outlasting_terminal() -> Iterator[None]:
    """Inside the block nothing that is printed can fail; what stands in no file at its end is dropped."""
    printed = sys.stdout
    sys.stdout = _Outlasting(printed)
    try:
        yield
    finally:
        sys.stdout = printed
        try:
            printed.flush()
        except OSError:  # or Python, which flushes once more, would end with 120
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, printed.fileno())
            os.close(nowhere)
