"""docs/claims.md, claims.json and claims.svg from the findings; what people have written under `BY_HAND` stays."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from statistics import fmean

from tests.benchmarks.processes import ROOT
from tests.benchmarks.results import origin
from tests.claims.arms import ARMS, STAGES
from tests.claims.claims import FACTS, SETS, Finding
from tests.claims.measured import BASE_KL, PRIOR_LOGPROB, Measured
from tests.claims.picture import draw

PAGE, JSON, PICTURE = (ROOT / "docs" / f"claims.{kind}" for kind in ("md", "json", "svg"))
BY_HAND = "## Why it came out like this"


def write_page(findings: Sequence[Finding], measured: dict[str, Measured]) -> None:
    """Writes all three files."""
    records = [_record(finding) for finding in findings]
    JSON.write_text(json.dumps(records, indent=2) + "\n")
    PICTURE.write_text(draw(records))
    _, heading, by_hand = PAGE.read_text().partition(BY_HAND) if PAGE.exists() else ("", "", "")
    PAGE.write_text("\n".join(_page(findings, measured)) + "\n" + (f"\n{heading}{by_hand}" if heading else ""))


def _record(finding: Finding) -> dict[str, object]:
    claim = finding.claim
    arms = {name: asdict(interval) | {"by_seed": list(finding.seeds[name])} for name, interval in finding.arms.items()}
    return {
        "claim": claim.text,
        "name": claim.name,
        "paper": claim.paper,
        "asked": claim.asked,
        "when": claim.when.value,
        "arms": arms,
        "difference": asdict(finding.difference),
        "verdict": finding.verdict.value,
    }


def _page(findings: Sequence[Finding], measured: dict[str, Measured]) -> Iterator[str]:
    runs = [run for arm in measured.values() for run in arm.runs]
    made_by = origin()
    commits = ", ".join(sorted({f"`{run.summary['git_commit'][:12] or 'unknown'}`" for run in runs}))
    yield from (
        "# The paper's claims, measured small",
        "",
        "Written by `make claims`: SmolLM2-135M-Instruct on two CPU cores, eight made-up facts in four wordings, a",
        "run for each seed. The paper's figures are those of 7B models on thousands of examples (arXiv 2601.19897);",
        "what can be seen here is a direction, not a size. Every arm has the same examples, steps and learning rate",
        "(2e-4, not tuned for any of them); `conf/experiment/claims.yaml` and `tests/claims/arms.py` are all settings.",
        "",
        f"{made_by['date']}, {made_by['machine']}; {len(runs)} runs at commit {commits},",
        f"{sum(run.summary['wall_s'] for run in runs) / 60:.0f} minutes of runs, two of them at a time.",
        "",
        "Differences are paired: the mean over the seeds of each question in one arm less that of the same question",
        'in the other, with the 95 % bootstrap interval over questions. "Confirmed" means that all of the interval',
        'lies on the expected side, "not seen" that all of it lies on the other, "undecided" everything else. So few',
        "seeds tell little of how much runs differ: each is shown, in brackets. One number a run has an interval over",
        f"seeds. {len(findings)} claims are tested, and nothing is corrected for their number.",
        "",
        "![New facts against prior knowledge, both after training](claims.svg)",
        "",
        "| claim | in the paper | asked | seen | difference, points | verdict |",
        "|---|---|---|---|---|---|",
    )
    yield from map(_row, findings)
    yield from (
        "",
        "## The arms",
        "",
        "Means over the seeds after training, with each seed's own value in brackets.",
        "",
    )
    yield "| arm | settings | new facts | indirect | prior | prior logprob, nats | KL(base, student), nats |"
    yield "|---|---|---|---|---|---|---|"
    for arm in ARMS:
        if arm.name in measured:
            settings = " ".join(f"`{one.partition('=')[0] if one == STAGES else one}`" for one in arm.settings)
            yield f"| {arm.name} | {settings} | " + " | ".join(_arm_cells(measured[arm.name])) + " |"


def _row(finding: Finding) -> str:
    claim = finding.claim
    write, unit = (_nats, "nats") if claim.metric else (_percent, "%")
    seen = ", ".join(
        f"{name} {write(value.mean)} ({', '.join(map(write, finding.seeds[name]))})"
        for name, value in finding.arms.items()
    )
    difference = finding.difference
    size, unit_of_size = (1, " nats") if claim.metric else (100, "")
    bounds = (
        "no interval"
        if math.isnan(difference.low)
        else f"{size * difference.low:+.2f} to {size * difference.high:+.2f}"
    )
    return (
        f"| {claim.text} | {claim.paper} | {claim.asked}, {claim.when.value} | {seen} {unit} | "
        f"{size * difference.mean:+.2f}{unit_of_size} ({bounds}) | **{finding.verdict.value}** |"
    )


def _arm_cells(arm: Measured) -> Iterator[str]:
    for sets in (FACTS, SETS["indirect questions"], SETS["prior knowledge"]):
        asked = arm.at_end(sets)
        yield _with_seeds(asked.by_seed, _percent) + " %"
    for metric in (PRIOR_LOGPROB, BASE_KL):
        yield _with_seeds(arm.by_seed(metric), _nats)


def _with_seeds(values: Sequence[float], write: Callable[[float], str]) -> str:
    return f"{write(fmean(values))} ({', '.join(map(write, values))})"


def _percent(share: float) -> str:
    return f"{round(100 * share, 6):.1f}"


def _nats(value: float) -> str:
    return f"{value:.2f}"
