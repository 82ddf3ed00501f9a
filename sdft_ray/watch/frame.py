"""One frame of mode=top: a pure function of what was read of a run, of the clock and of the terminal's size."""

from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from textwrap import wrap

from rich.text import Text

from sdft_ray.tracking.console import duration
from sdft_ray.tracking.run_view import VALUES, RunView
from sdft_ray.watch.blocks import BAD, DIM, Block, beside, line, spread
from sdft_ray.watch.sections import (
    evaluation_block,
    events_block,
    progress_block,
    roles_block,
    times_block,
    values_block,
)

WIDE = 120  # columns, from which on blocks stand side by side
SILENT_S = 20.0  # a driver that writes every two seconds has something wrong with it by then
NUM_EVENTS = 8  # where the height does not say how many
MIN_EVENTS = 3
COMPACT = 3  # phases and evaluations where the height is small
GAP = 3  # columns between two blocks


class State(Enum):
    """How a run stands."""

    STARTING = "starting", "yellow"
    RUNNING = "running", "green"
    SILENT = "silent", "bold red"  # the driver is there, and tells nothing
    FINISHED = "finished", "bold green"
    ENDED = "ended before its last step", "bold red"
    GONE = "gone without a word, as killed", "bold red"

    def __init__(self, words: str, style: str):
        self.words = words
        self.style = style

    @property
    def has_ended(self) -> bool:
        """True when nothing more will come."""
        return self in (State.FINISHED, State.ENDED, State.GONE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A view of a run with what only the one who looks can tell."""

    view: RunView
    is_alive: bool  # whether its driver is there
    now: float  # seconds since 1970

    @property
    def state(self) -> State:
        """How the run stands."""
        status, error = self.view.status, self.view.error
        if not self.is_alive or (status is not None and status.ended):
            if self.view.summary is not None:
                return State.FINISHED
            return State.ENDED if error or (status is not None and status.ended) else State.GONE
        if status is None:
            return State.STARTING
        return State.SILENT if self.now - status.written_at > SILENT_S else State.RUNNING


def frame(look: Look, *, width: int, height: int | None = None) -> Text:
    """The frame, with as many events as the height leaves room for; where it is small, blocks are cut at their end.

    Args:
        look: what to show.
        width: columns, from 40 on.
        height: lines; None is a file's, which has no end.
    """
    progress = progress_block(look.view, width, has_ended=look.state.has_ended)
    head = [*_head(look, width), *progress, *_ending(look, width)]
    body = _body(look, width)
    num_events = NUM_EVENTS
    if height is not None:
        room = height - len(head) - MIN_EVENTS - 1
        if len(body) > room:
            body = _body(look, width, most=COMPACT)[:room]
        num_events = height - len(head) - len(body) - 1
    lines = [*head, *body, *events_block(look.view.events[-num_events:], width)]
    for row in lines:
        row.truncate(width, overflow="ellipsis")
        row.rstrip()
    return Text("\n", no_wrap=True).join(lines)


def _head(look: Look, width: int) -> Block:
    view, state, status = look.view, look.state, look.view.status
    words = state.words
    right = Text("")
    if status is not None:
        if state is State.SILENT:
            words = f"silent for {duration(look.now - status.written_at)}: see mode=stacks name={view.name}"
        end = look.now if state is State.RUNNING else status.written_at
        right = line((duration(end - status.started_at), DIM))
    rows = [spread(line((view.name, "bold"), "  ", (words, state.style)), right, width)]
    if status is not None:
        what = f"{status.method}  {PurePath(status.model).name} on {status.cluster}"
        rows.append(spread(line((what, DIM)), line((view.folder, DIM)), width) if width >= WIDE else line((what, DIM)))
    return rows


def _body(look: Look, width: int, most: int = 8) -> Block:
    """Roles, times, values and evaluation, side by side where there is room; at most `most` times and evaluations."""
    view, is_wide = look.view, width >= WIDE
    half = (width - GAP) // 2 if is_wide else width
    roles = [] if look.state.has_ended else roles_block(view, half)
    left = [*roles, *times_block(view, half, most)]
    right = [*values_block(view, half, most if most == COMPACT else len(VALUES)), *evaluation_block(view, half, most)]
    return beside(left, right, width, GAP) if is_wide and left and right else [*left, *right]


def _ending(look: Look, width: int) -> Block:
    """How a run has ended, and what to do."""
    view, state = look.view, look.state
    if state is State.FINISHED and view.summary is not None:
        summary = view.summary
        said = [f"{summary['num_steps']} steps in {duration(summary['wall_s'])}", summary.get("verdict") or ""]
        return [line("; ".join(filter(None, said)))]
    if state not in (State.ENDED, State.GONE):
        return []
    why = view.error or (view.status.ended if view.status is not None else "")
    rows = [Text(row, BAD) for row in wrap(why, width)]
    return [*rows, line(("go on with  ", DIM), f"resume=auto name={view.name}")]
