"""A Chrome trace as a picture: `python -m tests.benchmarks.trace_picture runs/NAME/traces/step-10.json docs/trace.svg`.

matplotlib draws it, which only the environment of `make bench` holds. The driver's rows of single samples are left out:
the workers' rows have the same spans without the wait for a worker.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

# Colour of each kind of span, in the order of the legend; those of the same colour are one kind.
COLOURS = {
    "sample": "#4e79a7",
    "score": "#f28e2b",
    "forward and backward": "#59a14f",
    "optimizer": "#1f6b3a",
    "average": "#8cd17d",
    "publish": "#b07aa1",
    "load weights": "#d4a6c8",
    "save": "#9c755f",
    "wait": "#ececec",
}
DRIVER_NAMES = {"load_weights": "load weights", "round": "forward and backward"}  # the same, as the driver waits for it
STEP_COLOUR, OTHER = "#5b6770", "#bab0ac"
ROW, LANE, GAP = 1.0, 0.28, 0.75  # height of a single row, of one of many, and between processes


class Bar(NamedTuple):
    """A span where it is drawn."""

    name: str
    start_s: float
    length_s: float
    top: float
    height: float


def placed(trace: dict[str, Any]) -> tuple[list[Bar], list[tuple[str, float]], float]:
    """All bars, the name of each process with the height of its middle, and the height of all."""
    titles: dict[tuple[int, int], str] = {}
    for event in trace["traceEvents"]:
        if event["name"] in ("process_name", "thread_name"):
            titles[event["pid"], event["tid"]] = event["args"]["name"]
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    origin_us = min(event["ts"] for event in spans if event["name"].startswith("step "))
    bars, names, top = [], [], 0.0
    for process in sorted({process for process, _ in titles}):
        rows = [row for owner, row in sorted(titles) if owner == process and row]
        rows = [row for row in rows if not titles[process, row].startswith("samples")]
        first, height = top, ROW if len(rows) <= 2 else LANE
        for row in rows:
            bars += [
                Bar(span["name"], (span["ts"] - origin_us) / 1e6, span["dur"] / 1e6, top, height)
                for span in spans
                if (span["pid"], span["tid"]) == (process, row)
            ]
            top += height
        names.append((titles[process, 0].partition(" (")[0], (first + top) / 2))
        top += GAP
    return bars, names, top - GAP


def draw(trace: dict[str, Any], path: Path) -> None:
    """Writes the picture."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "trace", "font.size": 9}
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    bars, names, height = placed(trace)
    steps = [bar for bar in bars if bar.name.startswith("step ")]
    figure, axes = pyplot.subplots(figsize=(9.0, 1.3 + 0.26 * height), layout="constrained")
    for bar in bars:
        kind = DRIVER_NAMES.get(bar.name, bar.name)
        colour = STEP_COLOUR if bar in steps else COLOURS.get(kind, OTHER)
        axes.broken_barh(
            [(bar.start_s, bar.length_s)],
            (bar.top + 0.06 * bar.height, 0.88 * bar.height),
            facecolors=colour,
            edgecolor="none",
        )
    for step in steps:
        axes.axvline(step.start_s, color=STEP_COLOUR, linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
        middle = step.start_s + step.length_s / 2, step.top + ROW / 2
        axes.annotate(step.name, middle, color="white", ha="center", va="center", fontweight="bold")
    end_s = max(bar.start_s + bar.length_s for bar in steps)
    axes.set(
        xlim=(-0.02 * end_s, 1.02 * end_s), ylim=(height, -0.2), xlabel="seconds since the start of the first step"
    )
    axes.set_yticks([middle for _, middle in names], labels=[name for name, _ in names])
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    drawn = {DRIVER_NAMES.get(bar.name, bar.name) for bar in bars}
    patches = [Patch(facecolor=colour, label=kind) for kind, colour in COLOURS.items() if kind in drawn]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=min(len(patches), 5), frameon=False, handlelength=1.0
    )
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
