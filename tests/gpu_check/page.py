"""What checks came to: gpu.json, where the newest outcome of every part stands, and the page that is made of it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.render import table
from tests.gpu_check.parts import PARTS

FIGURES, PAGE = "gpu.json", "gpu-measured.md"
HEAD = """\
# Measured on GPUs

Written by `make gpu-check` on the machine it runs on; all figures are in `gpu.json` beside it. A part is measured or
absent: nothing here is predicted. What a part came to stays until it is run anew. [gpu.md](gpu.md) has the reasons.
"""

Results = dict[str, dict[str, Any]]  # an outcome by the part's name, with the machine where it was run


def read_results(folder: Path) -> Results:
    """Of all checks so far."""
    path = folder / FIGURES
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    return results


def merge(results: Results, name: str, outcome: dict[str, Any], machine: Mapping[str, Any]) -> Results:
    """The results with a part's newest outcome; one that was not run now leaves what it has ever come to."""
    if outcome["status"] == "not run" and results.get(name, outcome)["status"] != "not run":
        return results
    return results | {name: outcome if outcome["status"] == "not run" else outcome | {"machine": dict(machine)}}


def write(folder: Path, results: Results) -> None:
    """Writes both files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((FIGURES, json.dumps(results, indent=2) + "\n"), (PAGE, render(results))):
        scratch = folder / f"{name}.new"
        scratch.write_text(text)
        scratch.replace(folder / name)


def render(results: Results) -> str:
    """The page."""
    return "\n".join(_page(results)) + "\n"


def _page(results: Results) -> Iterator[str]:
    yield HEAD
    found = {name: results[name] for name in PARTS if name in results}
    yield from table(
        [
            {"part": f"`{name}`", "what": PARTS[name].title, "outcome": _outcome(each), "seconds": each.get("took_s")}
            for name, each in found.items()
        ]
    )
    for name, each in found.items():
        if each.get("tables") or each.get("notes"):
            yield from _section(name, each)


def _outcome(outcome: dict[str, Any]) -> str:
    why = outcome["why"].replace("|", "\\|")
    return outcome["status"] + (f": {why}" if why else "")


def _section(name: str, outcome: dict[str, Any]) -> Iterator[str]:
    machine = outcome["machine"]
    packages = ", ".join(f"{package} {version}" for package, version in machine["packages"].items())
    gpus = "; ".join(machine["gpus"]) or "no GPU"
    yield from ("", f"## {PARTS[name].title[0].upper()}{PARTS[name].title[1:]}", "")
    cuda = f", CUDA {machine['cuda']}" if machine["cuda"] else ""
    commit = machine["commit"][:12] or "unknown"
    yield f"{machine['date']}, commit `{commit}`, {gpus}{cuda}; {machine['machine']}; {packages}."
    for heading, rows in outcome.get("tables", {}).items():
        yield from ("", f"### {heading}") if heading else ()
        yield ""
        yield from table(rows)
    for note in outcome.get("notes", ()):
        yield from ("", f"- {note}")
