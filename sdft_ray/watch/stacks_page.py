"""Stacks as text: every thread of every process, and a table of where each process stands."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from sdft_ray.watch.stacks import Stacks, Thread

OWN = "(sdft_ray/"  # in a frame of this package


def stacks_text(name: str, taken_at: str, stacks: Sequence[Stacks]) -> str:
    """All of it, as it is written to a file."""
    hosts = len({each.host for each in stacks})
    places = f"{hosts} node{'s' * (hosts > 1)}"
    parts = [f"{len(stacks)} processes of {name} on {places}, at {taken_at}\n", *map(_process, stacks)]
    return "\n".join(parts)


def stacks_table(stacks: Sequence[Stacks]) -> Table:
    """A line a process: who it is, and in what its busiest thread is."""
    table = Table("process", "node", "pid", "is in", box=box.SIMPLE_HEAD)
    for each in stacks:
        name = each.worker + (f", {each.title}" if each.title.startswith("VLLM::") else "")
        table.add_row(name, each.host, str(each.process_id), _place(each))
    return table


def _place(stacks: Stacks) -> Text:
    if stacks.problem:
        return Text(f"not read: {stacks.problem}")
    thread = min(stacks.threads, key=_distance)
    own = next((frame for frame in thread.frames if OWN in frame), "")
    inner = thread.frames[0] if thread.frames else ""
    called = "" if own in ("", inner) else f"\n  from {own}"
    return Text.assemble((f"{thread.state}: ", "dim"), inner, (called, "dim"))


def _distance(thread: Thread) -> tuple[bool, bool, bool]:
    """Orders threads: first those in this package's code, active ones before idle ones, the main one before others."""
    is_own = any(OWN in frame for frame in thread.frames)
    return not is_own, thread.state == "idle", thread.name != "MainThread"


def _process(stacks: Stacks) -> str:
    head = f"== {stacks.worker} on {stacks.host}, pid {stacks.process_id} ({stacks.state}): {stacks.title}"
    if stacks.problem:
        return f"{head}\nnot read: {stacks.problem}\n"
    return "\n".join([head, *map(_lines, stacks.threads), ""])


def _lines(thread: Thread) -> str:
    return "\n".join([f"{thread.name} ({thread.state})", *(f"    {frame}" for frame in thread.frames)])
