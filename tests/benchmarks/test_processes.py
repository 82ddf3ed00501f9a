"""Commands under measurement."""

import sys
from pathlib import Path

import pytest

from tests.benchmarks.processes import run_with_peak_memory

SHARING = """
import os, time
block = bytearray(2**28)
block[::4096] = b"1" * 2**16  # a page has memory only when something is written into it
child = os.fork()
time.sleep(2)
"""


def test_memory_that_two_processes_share_counts_once(tmp_path: Path) -> None:
    peak_gib = run_with_peak_memory([sys.executable, "-c", SHARING], tmp_path / "log.txt")
    assert 0.25 < sum(peak_gib.values()) < 0.35


def test_a_command_that_fails_shows_what_it_said_last(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with pytest.raises(RuntimeError, match="no such model"):
        run_with_peak_memory(command, tmp_path / "log.txt")
