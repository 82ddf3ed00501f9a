"""A file of lines that outlives a full disk: what cannot be written is kept in memory and tried again with the next."""

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

MAX_KEPT_BYTES = 2**26  # of lines that wait for room; beyond it the oldest are given up


class LineFile:
    """Appends whole lines; a write that fails leaves no torn line behind, is said once, and raises nothing."""

    def __init__(self, path: Path, say: Callable[[str], None] = print):
        """Opens nothing yet: a start may still replace the file.

        Args:
            path: the file, made with the first line.
            say: is told when lines cannot be written, and when they can again.
        """
        self._path = path
        self._say = say
        self._descriptor = -1
        self._kept: list[bytes] = []
        self._num_lost = 0
        self._fails = False

    def write(self, lines: Iterable[str]) -> None:
        """Appends lines, which are handed to the operating system when this returns, or kept."""
        self.write_records(line.encode() for line in lines)

    def write_records(self, records: Iterable[bytes]) -> None:
        """The same of records that are no text."""
        self._kept += records
        try:
            self._append(b"".join(self._kept))
        except OSError as error:
            self._keep_what_fits()
            if not self._fails:
                self._say(
                    f"not written    {self._path} ({error.strerror or error}); training goes on, and its lines are "
                    "kept until there is room"
                )
            self._fails = True
        else:
            self._kept.clear()
            if self._fails:
                self._say(f"written again  {self._path}")
            self._fails = False

    def close(self) -> None:
        """Tries once more, says what is lost, and closes the file."""
        if self._kept:
            self.write([])
        lost = self._num_lost + len(self._kept)
        if lost:
            self._say(f"lost           {lost} lines of {self._path}, which could not be written")
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _append(self, content: bytes) -> None:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        there = os.fstat(self._descriptor)
        if not there.st_nlink:  # deleted: the kernel would take the lines, and nobody would find them
            os.close(self._descriptor)
            self._descriptor = -1
            if not self._path.parent.is_dir():
                raise OSError(errno.ENOENT, "it was deleted")
            return self._append(content)  # another file is there, cut back by the run itself, or none
        written = 0
        try:
            while written < len(content):
                written += os.write(self._descriptor, content[written:])
        except OSError:
            if written:
                os.ftruncate(self._descriptor, there.st_size)
            raise

    def _keep_what_fits(self) -> None:
        size = sum(map(len, self._kept))
        while size > MAX_KEPT_BYTES:
            size -= len(self._kept.pop(0))
            self._num_lost += 1
