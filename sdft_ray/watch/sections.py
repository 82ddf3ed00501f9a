"""The blocks of a frame, each a pure function of what was read of a run."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from math import isfinite
from statistics import fmean

from rich.text import Text

from sdft_ray.tracking.console import STEPS_FOR_TIME_LEFT, duration, evaluation_name, shown_value
from sdft_ray.tracking.run_status import RunStatus, WorkerPlace
from sdft_ray.tracking.run_view import TIMES, VALUES, Event, RunView
from sdft_ray.watch.blocks import BAD, DIM, GOOD, Block, bar, cells, curve, fitted, heading, is_number, line, progress

ROLES = ("rollout", "teacher", "learner")
COLOURS = {"rollout": "green", "score": "yellow", "wait": "bright_black", "load weights": "magenta"}
OF_LEARNER = "cyan"
COLUMN = 17  # columns of an evaluation
MIN_SHARE = 0.005  # of a step: what takes less is not shown
NAMES = {  # of values, where the key's own words are too long
    "learner/divergence_nats": "divergence",
    "learner/student_entropy_nats": "student entropy",
    "learner/teacher_entropy_nats": "teacher entropy",
    "rehearsal/divergence_nats": "rehearsed",
    "rollout/completion_tokens_mean": "completion",
    "rollout/truncated_share": "truncated",
    "learner/mismatch_max_nats": "mismatch",
    "loop/staleness_max": "staleness",
}
UNITS = {"rollout/completion_tokens_mean": " tokens", "loop/staleness_max": " steps"}
ALARMS = "loop/alarms"
QUIET = (ALARMS, "loop/staleness_max", "rollout/truncated_share")  # not shown where they are 0
BAD_WORDS = ("lost", "hung", "given up", "start failed", "alarm", "not saved", "not written", "damaged", "error", "NaN")
GOOD_WORDS = ("replaced", "restored", "written again", "joined", "checkpoint")


def progress_block(view: RunView, width: int, *, has_ended: bool) -> Block:
    """How far the run is, and when it will end."""
    status = view.status
    if status is None and has_ended:
        return [line((f"step {view.steps[-1]['step']}", "bold"))] if view.steps and view.summary is None else []
    if status is None:
        return [line((view.told or "nothing is told yet", DIM))]
    done = f"step {status.step} of {status.num_steps}"
    number, stage = status.stage()
    if stage:
        done += f"  stage {stage} ({number} of {len(status.stages)})"
    step_s = mean_of(view, "loop/step_s")
    share = status.step / status.num_steps
    pace = f"{share:4.0%}"
    if step_s is not None and not has_ended:
        pace += f"  {duration(step_s * (status.num_steps - status.step))} left"
    room = max(8, width - len(done) - len(pace) - 4)
    block = [line((done, "bold"), "  ", progress(share, room), "  ", pace)]
    return block + [line(("now  ", DIM), what) for what in status.going_on[:2] if not has_ended]


def roles_block(view: RunView, width: int) -> Block:
    """Who works where with which weights, and on how much."""
    status = view.status
    if status is None:
        return []
    node_width = max(8, width - 46)
    widths = [8, 9, -7, -10, -9, node_width - 3]
    rows = [cells([Text(name, DIM) for name in _HEADS], widths)]
    for role in ROLES:
        workers = [worker for worker in status.workers if worker.role == role]
        if workers:
            rows.append(cells([role, *_of_role(view, status, role, workers), " " + _nodes(workers)], widths))
    return [heading("roles", width), *rows]


_HEADS = ("role", "workers", "weights", "open calls", "tokens/s", " nodes")


def _of_role(view: RunView, status: RunStatus, role: str, workers: Sequence[WorkerPlace]) -> list[Text]:
    serving = sum(worker.serves for worker in workers)
    number = Text(str(serving)) if serving == len(workers) else Text(f"{serving} of {len(workers)}", BAD)
    version = status.versions.get(role)
    weights = Text("fixed", DIM) if version is None else Text(str(version), "" if version == status.step else "yellow")
    rate = mean_of(view, f"{role}/tokens_per_s")
    num_open = sum(worker.num_open for worker in workers)
    return [number, weights, Text(str(num_open)), Text("" if rate is None else f"{rate:,.0f}")]


def _nodes(workers: Iterable[WorkerPlace]) -> str:
    per_node = Counter(worker.node or "unknown" for worker in workers)
    if len(per_node) > 3:
        return f"{len(per_node)} nodes"
    return ", ".join(node if number == 1 else f"{node} x{number}" for node, number in sorted(per_node.items()))


def times_block(view: RunView, width: int, most: int) -> Block:
    """Where the time of a step goes; phases overlap, so their shares need not add up."""
    step_s = mean_of(view, "loop/step_s")
    if not step_s:
        return []
    means = {key: seconds for key in TIMES if (seconds := mean_of(view, key)) and seconds > MIN_SHARE * step_s}
    longest = sorted(means, key=lambda key: -means[key])[:most]
    number = min(len(view.steps), STEPS_FOR_TIME_LEFT)
    title = f"a step takes {step_s:.1f} s" + (f", mean of {number}" if number > 1 else "")
    rows = [heading(title, width)]
    for key in longest:
        name = key.partition("/")[2].removesuffix("_s").replace("_", " ")
        share = means[key] / step_s
        values: list[str | Text] = [
            name,
            bar(share, width - 36, COLOURS.get(name, OF_LEARNER)),
            f"{means[key]:.2f} s",
            f"{share:.0%}",
        ]
        rows.append(cells(values, [16, width - 36, -9, -5]))
    return rows


def values_block(view: RunView, width: int, most: int) -> Block:
    """The last value of what tells how training goes, with its curve."""
    rows = []
    room = width - 31
    for key in VALUES:
        values = [step.get(key) for step in view.steps]
        if not any(key in step for step in view.steps) or (key in QUIET and not any(values)):
            continue
        said = Text(_rounded(key, values[-1]), BAD if key == ALARMS and values[-1] else "")
        name = NAMES.get(key, key.partition("/")[2].replace("_", " "))
        rows.append(cells([name, said, Text(curve(values, room), "cyan")], [16, -12, room]))
    return [heading(f"last {min(len(view.steps), room)} steps", width), *rows[:most]] if rows else []


def evaluation_block(view: RunView, width: int, most: int) -> Block:
    """The last evaluation beside the first one."""
    keys = [key for key in view.evaluation if "/" in key][:most]
    if not keys:
        return []
    first, last = view.first_evaluation, view.evaluation
    widths = [width - 2 * COLUMN - 4, -COLUMN, -COLUMN]
    is_one = first.get("step") == last["step"]
    steps = [] if is_one else [first["step"]]
    labels = "".join(f" step {step} ".rjust(COLUMN + 1, "─") for step in [*steps, last["step"]])
    rows = [heading("evaluation", width - len(labels) - 1) + Text(f"{labels}─", DIM)]
    for key in keys:
        before, after = (_short(key, line.get(key)) for line in (first, last))
        rows.append(cells([evaluation_name(key), Text("" if is_one else before, DIM), after], widths))
    return rows


def events_block(events: Sequence[Event], width: int) -> Block:
    """What was told last."""
    if not events:
        return []
    return [heading("events", width), *(fitted(_event(event), width) for event in events)]


def _event(event: Event) -> Text:
    style = ""
    if event.text.startswith(BAD_WORDS):
        style = "red"
    elif event.text.startswith(GOOD_WORDS):
        style = GOOD
    clock = time.strftime("%H:%M:%S", time.localtime(event.at))
    return line((f"{clock}  ", DIM), (event.text, style))


def mean_of(view: RunView, key: str) -> float | None:
    """The mean of a metric over the last steps that have it; None where none has."""
    values = [step[key] for step in view.steps[-STEPS_FOR_TIME_LEFT:] if is_number(step.get(key))]
    return fmean(values) if values else None


def _rounded(key: str, value: float | None) -> str:
    if value is None or not isfinite(value):
        return "not finite"
    if key.endswith("_share"):
        return f"{value:.0%}"
    is_count = key in UNITS or key == ALARMS
    digits = 0 if is_count and value == int(value) else 1 if abs(value) >= 10 else 4
    shown = f"{value:.{digits}f}" if not 0 < abs(value) < 1e-3 else f"{value:.1e}"
    return shown + UNITS.get(key, "")


def _short(key: str, value: float | None) -> str:
    return shown_value(key, value).replace(" nats per token", " nats")
