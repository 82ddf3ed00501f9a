"""One part in a process of its own, so that what breaks it, or the GPU under it, ends no other."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil

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
    return outcome_of([sys.executable, *command], log, report, part.limit_s)


def outcome_of(command: list[str], log: Path, report: Path, limit_s: float) -> Outcome:
    """What came of a command that writes a report: figures in JSON, or the XML of pytest."""
    started = time.monotonic()
    with log.open("w") as output, _process(command, output) as process:
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
    took = {"took_s": round(time.monotonic() - started, 1)}
    if code is None:
        return {"status": "failed", "why": f"took longer than {limit_s:.0f} s"} | took
    figures = _read(report) if report.exists() else {}
    if code != 0 or not figures:
        return {"status": "failed", "why": _last_words(log)} | took | figures
    if why := figures.pop("absent", ""):
        return {"status": "not run", "why": why}
    return {"status": "passed", "why": ""} | took | figures


@contextmanager
def _process(command: list[str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group of its own; with the block all of the group ends, for the next part's GPU memory."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        for ending in (signal.SIGTERM, signal.SIGKILL):
            for member in _members(process.pid):
                with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                    member.send_signal(ending)
            deadline = time.monotonic() + GRACE_S
            while _members(process.pid) and time.monotonic() < deadline:
                time.sleep(0.1)
        process.wait()


def _members(group: int) -> list[psutil.Process]:
    """The processes of a group that have not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):  # it ended meanwhile
            continue
    return found


def _read(report: Path) -> dict[str, Any]:
    """The figures that a part has written."""
    if report.suffix == ".json":
        figures: dict[str, Any] = json.loads(report.read_text())
        return figures
    cases = list(ElementTree.parse(report).iter("testcase"))
    results = [next((child for child in case if child.tag in ("failure", "error", "skipped")), None) for case in cases]
    counts = Counter("passed" if result is None else result.tag for result in results)
    if counts["skipped"] == len(cases):
        return {"absent": next((result.get("message", "") for result in results if result is not None), "no tests")}
    wrong = counts["failure"] + counts["error"]
    row = {"tests": len(cases), "passed": counts["passed"], "failed": wrong, "skipped": counts["skipped"]}
    return {"tables": {"": [row]}}


def _last_words(log: Path) -> str:
    """The last line that tells of an error, where one does: what comes behind it may only say where more is told."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if re.search("error|failed", line, re.IGNORECASE)]
    return (telling or lines or ["it said nothing"])[-1][:LONGEST_REASON]
