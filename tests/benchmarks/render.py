"""docs/benchmarks.md from the results: the headlines against their targets, then a section for each measurement."""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tests.benchmarks.plots import PLOTS
from tests.benchmarks.processes import ROOT
from tests.benchmarks.results import Results

PAGE = ROOT / "docs" / "benchmarks.md"

# In the order of the page.
MEASUREMENTS = {
    "fused": "Fused divergence",
    "payloads": "Payloads",
    "method_cost": "Cost of the method",
    "peer": "Beside TRL",
    "publish": "Publishing weights",
    "start": "From the command to the first step",
    "data": "From rows to token ids",
    "deterministic": "The same run twice",
    "prefix": "Common prefixes",
    "growth": "Growth",
    "turns": "One device in turns",
    "plan_memory": "The planner's memory",
}


class Headline(NamedTuple):
    """A number that the project promises something about."""

    key: str
    meaning: str
    at_most: float | None = None
    at_least: float | None = None

    def target(self) -> str:
        """What is promised, "" for nothing."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}" if self.at_least is not None else ""

    def reached(self, value: float) -> str:
        """Whether it is kept, "" where nothing is promised."""
        if self.at_most is not None:
            return "yes" if value <= self.at_most else "no"
        return ("yes" if value >= self.at_least else "no") if self.at_least is not None else ""


HEADLINES = (
    Headline("fused_memory_ratio", "memory of the fused divergence over the plain one's", at_most=0.05),
    Headline("fused_time_ratio", "time of the fused divergence over the plain one's", at_most=1.15),
    Headline("payload_max_abs_diff", "largest difference of a token's divergence under HIDDEN from LOGITS, nats"),
    Headline("sdft_over_sft_staleness0", "step of SDFT over step of SFT, on-policy", at_most=2.5),
    Headline("sdft_over_sft_staleness1", "the same, rollouts one step behind", at_most=2.5),
    Headline("deterministic_over_default", "step with deterministic=true over step without, roles in turns"),
    Headline("deterministic_over_overlapping", "the same, sampling and scoring at the same time"),
    Headline("trl_samples_ratio_facts", "samples a second over TRL's, 8 facts", at_least=1.2),
    Headline("trl_samples_ratio_tools", "samples a second over TRL's, 16 tool calls", at_least=1.5),
    Headline("trl_memory_ratio_tools", "peak memory over TRL's, 16 tool calls", at_most=0.6),
    Headline("publish_share_of_step", "share of the demo's step that new weights take", at_most=0.15),
    Headline("start_s", "from the command to the demo's first step, second start, s", at_most=45),
    Headline("start_processor_s", "processor time of all processes until then, s"),
    Headline("data_first_start_s", "100,000 rows read, rendered and encoded, s", at_most=60),
    Headline("data_second_start_s", "the same from the cache, s", at_most=5),
    Headline("data_alone_over_batched", "time of one row at a time over the batched way's"),
    Headline("turns_memory_ratio", "memory of steps in turns over all roles at once", at_most=1.0),
    Headline("turns_step_ratio", "the same of a step's time"),
    Headline("turns_loss_difference", "largest difference of a step's loss, nats"),
    Headline("plan_memory_error", "largest relative error of the planner's memory", at_most=0.15),
)


def render(results: Results) -> str:
    """The page."""
    return "\n".join(_page(results)) + "\n"


def _page(results: Results) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield 'Written by `make bench`, which measures on the machine it runs on; `make bench ARGS="fused payloads"`'
    yield "measures some of it anew and keeps the rest. All figures are in `benchmarks.json` beside it."
    yield ""
    rows = [
        {"key": f"`{line.key}`", "value": results[line.key], "target": line.target()}
        | {"reached": line.reached(results[line.key]), "meaning": line.meaning}
        for line in HEADLINES
        if line.key in results
    ]
    yield from table(rows)
    for name, title in MEASUREMENTS.items():
        if name in results["measured"]:
            yield from _section(name, title, results[f"{name}_raw"], results["measured"][name])


def _section(name: str, title: str, raw: dict[str, Any], made_by: dict[str, Any]) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    yield (importlib.import_module(f"tests.benchmarks.{name}").__doc__ or "").strip()
    yield ""
    packages = ", ".join(f"{package} {version}" for package, version in made_by["packages"].items())
    yield f"{made_by['date']}, commit `{made_by['commit'][:12] or 'unknown'}`, {made_by['machine']}; {packages}."
    for heading, rows in _tables_of(name, raw).items():
        yield from ("", f"### {heading}") if heading else ()
        yield ""
        yield from table(rows)
    for note in raw.get("notes", ()):
        yield from ("", f"- {note}")
    if name == "growth":
        for size, title in PLOTS.items():
            yield from ("", f"![{title}](growth-{size}.svg)")


def _tables_of(name: str, raw: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    if name != "plan_memory":
        return raw.get("tables", {})
    sides = {"predicted": "predicted_gib", "measured": "measured_gib"}
    return {
        "": [
            {"run": run}
            | {f"{side}_gib": sum(figures[key].values()) for side, key in sides.items()}
            | {"error": figures["error"]}
            for run, figures in raw["runs"].items()
        ]
    }


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines of a table in Markdown, whose columns are those of the first row."""
    if not rows:
        return
    columns = list(rows[0])
    yield "| " + " | ".join(column.replace("_", " ") for column in columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_cell(row[column]) for column in columns) + " |"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
