"""One part in a process of its own, so that what breaks it, or the GPU under it, ends no other."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.benchmarks.processes import ROOT
from tests.gpu_check.parts import Part, Place

GRACE_S = 60.0  # for a run to end its workers
LONGEST_REASON = 300

Outcome = dict[str, Any]  # "status": passed, failed or not run; "why"; "took_s"; "tables" and "notes" where measured


def run_part(name: str, part: Part, place: Place) -> Outcome:
    """What came of it; its output is in NAME.log of the scratch folder."""
    log, report = place.scratch / f"{name}.log", place.scratch / f"{name}.{'xml' if part.tests else 'json'}"
    if part.tests:
        command = ["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", f"tests/gpu/{part.tests}"]
        command += [f"--junitxml={report}"]
    else:
        command = ["-m", "tests.gpu_check.one", name, place.device, str(place.scratch)]
    started = time.monotonic()
    with log.open("w") as output, _process([sys.executable, *command], output) as process:
        try:
            code: int | None = process.wait(part.limit_s)
        except subprocess.TimeoutExpired:
            code = None
    took_s = round(time.monotonic() - started, 1)
    if code is None:
        return {"status": "failed", "why": f"took longer than {part.limit_s:.0f} s", "took_s": took_s}
    figures = _read(report)
    if code != 0 or figures is None:
        return {"status": "failed", "why": _last_words(log), "took_s": took_s, **(figures or {})}
    if why := figures.pop("absent", ""):
        return {"status": "not run", "why": why}
    return {"status": "passed", "why": "", "took_s": took_s, **figures}


@contextmanager
def _process(command: list[str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group of its own; with the block both end."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _read(report: Path) -> dict[str, Any] | None:
    """The figures of a part that wrote any."""
    if not report.exists():
        return None
    if report.suffix == ".json":
        figures: dict[str, Any] = json.loads(report.read_text())
        return figures
    skipped = [case.get("message") or "" for case in ElementTree.parse(report).iter("skipped")]
    cases = [next((child.tag for child in case), "passed") for case in ElementTree.parse(report).iter("testcase")]
    counts = Counter(cases)
    if skipped and len(skipped) == len(cases):
        return {"absent": skipped[0]}
    wrong = counts["failure"] + counts["error"]
    row = {"tests": len(cases), "passed": counts["passed"], "failed": wrong, "skipped": counts["skipped"]}
    return {"tables": {"": [row]}}


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return (lines or ["it said nothing"])[-1][:LONGEST_REASON]
