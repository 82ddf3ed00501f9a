"""Commands as processes of their own, with the memory of everything they start."""

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
SAMPLE_EVERY_S = 0.5
# Reading what processes share takes 0.2 s for 8 GiB, so it is done only where their resident sets, which cost nothing
# to read, add up to more than ever before by this share.
GROWTH = 0.01


def run_with_peak_memory(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Runs a command to its end.

    Args:
        command: with its arguments; it runs in the repository's root.
        log: the file its output goes to.
        environment: all of its environment; None for this process's own.

    Returns:
        What it and its descendants held when they held most together, by process name [GiB]. A page that several of
        them share counts once (proportional set size).

    Raises:
        RuntimeError: it failed.
    """
    peak: Counter[str] = Counter()
    largest = 0.0
    with log.open("w") as output:
        process = psutil.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            resident = _sizes(process, lambda member: member.memory_info().rss).total()
            if resident > largest * (1 + GROWTH):
                largest = resident
                sizes = _sizes(process, lambda member: member.memory_full_info().pss)
                peak = max(peak, sizes, key=Counter.total)
            time.sleep(SAMPLE_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    return {name: size / GIB for name, size in peak.most_common()}


def _sizes(process: psutil.Process, size_of: Callable[[psutil.Process], int]) -> Counter[str]:
    """Bytes of the process and its descendants, by process name."""
    sizes: Counter[str] = Counter()
    for member in family(process):
        try:
            sizes[member.name()] += size_of(member)
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended meanwhile
            continue
    return sizes


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process and its descendants; none where it has ended."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
