"""What happened while the arms trained: curves over the steps, divergence along a completion, tokens, time."""

import math
import re
from collections.abc import Mapping, Sequence

from sdft_ray.report.arms import Arm
from sdft_ray.report.axes import Form
from sdft_ray.report.bars import Stack, part_names, stacked_chart
from sdft_ray.report.curves import MAX_POINTS, Point, curve, points_of
from sdft_ray.report.lines import Line, line_chart
from sdft_ray.report.quantities import (
    PRIOR,
    accuracy_key,
    evaluation_sets,
    form,
    learning_keys,
    named,
    retention_keys,
)
from sdft_ray.report.runs import Run
from sdft_ray.report.sections import Figure, Section, Study, file_name, numbered
from sdft_ray.report.tables import number_cell, table, text_cell
from sdft_ray.report.tokens import token_maps

# In the order of a step. What is part of another one (publishing of loading), and waiting, which is nobody's work, is
# left out.
PHASES = ("rollout", "score", "forward_backward", "optimizer", "ema", "load_weights")
PHASE_KEYS = {
    "step": "loop/step_s",
    "rollout": "loop/rollout_s",
    "score": "loop/score_s",
    "forward_backward": "learner/forward_backward_s",
    "optimizer": "learner/optimizer_s",
    "ema": "learner/ema_s",
    "load_weights": "loop/load_weights_s",
}
OF_TEACHER = re.compile(
    r"learner/(divergence|teacher)_.*|rehearsal/.*divergence_.*"
)  # without a teacher they are something else, or nothing
MAX_POSITIONS = 120  # groups of positions of the divergence by position


def learning(study: Study) -> Section:
    """The quantities of training, and the accuracy on what is taught, by step."""
    keys = learning_keys(study.keys)
    sets = [
        accuracy_key(name)
        for name in evaluation_sets(study.keys)
        if accuracy_key(name) not in (*study.tasks.prior, accuracy_key(PRIOR))
    ]
    if any(run.stages for run in study.runs):  # the section on stages has their charts
        sets = []
    figures = [figure for key in (*sets, *keys) if (figure := curve_figure(study.arms, key)) is not None]
    lead = "The mean of an arm's runs at every step; the band is its 95 % interval."
    if any(run.num_steps > MAX_POINTS for run in study.runs):
        lead += f" Of long runs, groups of steps: at most {MAX_POINTS} points a line."
    if any(key in study.keys for key in ("learner/divergence_nats",)):
        lead += " " + _what_divergence_is(study.arms)
    return Section(name="learning", title="Learning", lead=lead, figures=numbered(figures))


def retention(study: Study) -> Section:
    """What is left of what the model could before."""
    keys = retention_keys(study.keys, study.tasks)
    figures = [figure for key in keys if (figure := curve_figure(study.arms, key)) is not None]
    lead = "What the model could before it was taught. Accuracy and logprob can disagree: the style of an answer may "
    lead += "improve while its facts go."
    if "rehearsal/divergence_nats" in study.keys:
        lead += " What an arm rehearses it trains on: the divergence of those rows tells what rehearsal holds, and the "
        lead += "other curves, of prompts that are never trained on, what it buys."
    return Section(name="retention", title="Retention", lead=lead, figures=numbered(figures))


def positions(study: Study) -> Section:
    """The divergence along a completion."""
    lines, counts = [], []
    for arm in study.arms:
        if not arm.has_teacher:
            continue
        points, samples = _by_position(arm.runs)
        if points:
            lines.append(Line(label=arm.label, index=arm.index, points=points))
            counts.append(Line(label=arm.label, index=arm.index, points=samples))
    figures = []
    if lines:
        form = Form.NUMBER
        drawing = line_chart("Divergence by position, nats", lines, form=form, x_name="token of the completion")
        figures.append(Figure(name="divergence-by-position", drawing=drawing))
        drawing = line_chart(
            "Samples that reach the position", counts, form=Form.COUNT, x_name="token of the completion"
        )
        figures.append(Figure(name="samples-by-position", drawing=drawing))
    lead = "From the recorded samples of the whole run, a few a step. Late positions rest on few samples, as the "
    lead += f"second chart tells. {_what_divergence_is(study.arms)}"
    return Section(name="positions", title="Divergence by position", lead=lead, figures=tuple(figures))


def disagreements(study: Study) -> Section:
    """Token maps of a few samples."""
    maps, top = token_maps([arm for arm in study.arms if arm.has_teacher])
    lead = "The first and the last recorded sample of the first run of an arm. The more colour is under a token, the "
    lead += f"more teacher and student differ there. {_what_divergence_is(study.arms)}"
    return Section(
        name="tokens",
        title="Where the teacher disagreed",
        lead=lead,
        maps=maps,
        shade_end=Form.NUMBER.write(top),
    )


def times(study: Study) -> Section:
    """Seconds of every phase of a step."""
    stacks = [stack for arm in study.arms if (stack := _stack(arm)) is not None]
    figures: tuple[Figure, ...] = ()
    if stacks:
        drawing = stacked_chart("Seconds of a step by phase", stacks, form=Form.NUMBER, unit="s")
        names = part_names(stacks)
        rows = [
            [
                text_cell(stack.label),
                number_cell(stack.whole, Form.NUMBER),
                *(number_cell(stack.parts.get(name), Form.NUMBER) for name in names),
            ]
            for stack in stacks
        ]
        numbers = table("Seconds of a step by phase", ("arm", "step", *names), rows)
        figures = (Figure(name="phases", drawing=drawing, numbers=numbers, has_arms=False, parts=tuple(names)),)
    lead = (
        "Means over the steps of an arm's runs. The tick marks the wall time of a step; phases overlap, so their sum "
    )
    lead += "may exceed it, and it holds waiting, which is no phase."
    return Section(name="time", title="Time per phase", lead=lead, figures=figures)


def curve_figure(arms: Sequence[Arm], key: str) -> Figure | None:
    """A metric over the steps; None where no arm has it."""
    shown = [arm for arm in arms if arm.has_teacher or not OF_TEACHER.match(key)]
    lines = [Line(label=arm.label, index=arm.index, points=curve(arm.runs, key)) for arm in shown]
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    return Figure(name=file_name(key), drawing=line_chart(named(key), lines, form=form(key)))


def _what_divergence_is(arms: Sequence[Arm]) -> str:
    """That arms may mean different things by it."""
    kinds: dict[str, list[str]] = {}
    for arm in arms:
        if arm.has_teacher:
            kind = str(arm.runs[0].settings.get("loss.divergence", "unknown"))
            kinds.setdefault(kind.replace("_", " ").lower().replace("kl", "KL"), []).append(arm.label)
    if len(kinds) < 2:
        return "".join(f"The divergence is the {kind}." for kind in kinds if kind != "unknown")
    listed = "; ".join(f"{kind} in {', '.join(members)}" for kind, members in kinds.items())
    return f"The divergence is not the same quantity in all arms: {listed}."


def _by_position(runs: Sequence[Run]) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """Means over the samples of each run, then over the runs; and how many samples there are."""
    longest = max((len(sample.divergence) for run in runs for sample in run.samples), default=0)
    width = math.ceil(longest / MAX_POSITIONS) or 1
    means: dict[float, list[float]] = {}
    counts: dict[float, float] = {}
    for run in runs:
        groups: dict[float, list[float]] = {}
        for sample in run.samples:
            for position, nats in enumerate(sample.divergence, start=1):
                if math.isfinite(nats):
                    groups.setdefault(float(math.ceil(position / width) * width), []).append(nats)
        for place, values in groups.items():
            means.setdefault(place, []).append(math.fsum(values) / len(values))
            counts[place] = counts.get(place, 0.0) + len(values) / width
    return points_of(means), points_of({place: [count] for place, count in counts.items()})


def _stack(arm: Arm) -> Stack | None:
    seconds = [found for run in arm.runs if (found := _seconds(run))]
    if not seconds:
        return None
    means = {
        name: math.fsum(one.get(name, 0.0) for one in seconds) / len(seconds)
        for name in ("step", *PHASES)
        if any(one.get(name) for one in seconds)
    }
    whole = means.pop("step", None)
    return Stack(label=arm.label, parts={_phase_name(name): value for name, value in means.items()}, whole=whole)


def _seconds(run: Run) -> Mapping[str, float]:
    """Means over the steps, as the summary of a finished run has them."""
    if run.summary.get("seconds"):
        seconds: dict[str, float] = run.summary["seconds"]
        return seconds
    means = {}
    for name, key in PHASE_KEYS.items():
        if values := run.values(key).values():
            means[name] = math.fsum(values) / len(values)
    return means


def _phase_name(name: str) -> str:
    return {"score": "scoring", "ema": "moving average", "load_weights": "loading weights"}.get(
        name, name.replace("_", " and ")
    )
