"""The newest figures of every measurement, and where each of them comes from.

They stand in docs/benchmarks.json, so that a clone knows them, and in runs/bench/latest.json for who reads runs.
"""

import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import psutil

from sdft_ray.tracking.summary import git_commit, package_versions
from tests.benchmarks.processes import GIB, ROOT

KEPT = ROOT / "docs" / "benchmarks.json"
LATEST = ROOT / "runs" / "bench" / "latest.json"
PEERS = ("trl", "liger-kernel")

Results = dict[str, Any]  # headlines and raw figures by key, and "measured": the origin of each measurement


def origin() -> dict[str, Any]:
    """What figures measured from now on depend on."""
    peers = {package.name.lower().replace("_", "-"): package.version for package in importlib.metadata.distributions()}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": git_commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / GIB:.0f} GiB",
        "packages": package_versions() | {name: peers[name] for name in PEERS if name in peers},
    }


def read_results(path: Path = KEPT) -> Results:
    """What has been measured so far."""
    return json.loads(path.read_text()) if path.exists() else {"measured": {}}


def merge(results: Results, name: str, figures: dict[str, Any], made_by: dict[str, Any]) -> Results:
    """The results with one measurement's figures in place of its earlier ones."""
    return results | figures | {"measured": results["measured"] | {name: made_by}}


def write_results(results: Results, *paths: Path) -> None:
    """Writes them to each of `paths`, in one move."""
    for path in paths or (KEPT, LATEST):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(results, indent=2) + "\n")
        os.replace(scratch, path)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
