"""The plots of the page on growth; matplotlib draws them, which only the environment of `make bench` holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLOTS = {
    "sequence": "Completion tokens",
    "batch": "Samples a step",
    "vocabulary": "Vocabulary rows",
    "actors": "Rollout workers",
    "zero_stage": "ZeRO stage, two ranks",
}
QUANTITIES = {"step_s": "seconds a step", "memory_gib": "GiB of all workers"}


def draw_growth(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Writes one growth-NAME.svg for each size that was grown."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "growth", "font.size": 9}
    from matplotlib import pyplot

    for name, label in PLOTS.items():
        grown = [row for row in rows if row["grows"] == name]
        if not grown:
            continue
        sizes = [row["size"] for row in grown]
        figure, axes = pyplot.subplots(1, 2, figsize=(6.4, 2.4), layout="constrained")
        for panel, (key, quantity) in zip(axes, QUANTITIES.items(), strict=True):
            values = [row[key] for row in grown]
            panel.plot(sizes, values, marker="o")
            panel.set(xlabel=label, ylabel=quantity)
            panel.margins(0.15)
            for point in zip(sizes, values, strict=True):
                panel.annotate(f"{point[1]:.3g}", point, xytext=(0, 6), textcoords="offset points", ha="center")
            if name == "zero_stage":
                panel.set(xticks=sizes, ylim=(0, 1.2 * max(values)))
            else:
                panel.set(xscale="log", yscale="log")
                panel.set_xticks(sizes, labels=[f"{size:,}" for size in sizes])
                panel.minorticks_off()
        figure.savefig(folder / f"growth-{name}.svg", metadata={"Date": None})
        pyplot.close(figure)
