"""What becomes of measurements: one file of results, and a page."""

from pathlib import Path
from typing import Any

from tests.benchmarks.render import MEASUREMENTS, render
from tests.benchmarks.results import merge, read_results, write_results

ORIGIN = {"date": "2026-11-24", "commit": "0123456789abcdef", "machine": "a machine", "packages": {"torch": "2.13"}}
FUSED = {
    "fused_memory_ratio": 0.04,
    "fused_time_ratio": 1.3,
    "fused_raw": {"tables": {"": [{"tokens": 2048, "which": "fused", "time_s": 27.51}]}, "notes": ["a note"]},
}


def results_of(*measurements: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    results: dict[str, Any] = {"measured": {}}
    for name, figures in measurements:
        results = merge(results, name, figures, ORIGIN)
    return results


def test_a_new_measurement_keeps_the_figures_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "latest.json"
    assert read_results(path) == {"measured": {}}
    write_results(results_of(("fused", FUSED)), path)

    payload = {"payload_max_abs_diff": 1e-6, "payloads_raw": {}}
    later = merge(read_results(path), "payloads", payload, ORIGIN | {"commit": "later"})
    write_results(later, path)

    merged = read_results(path)
    assert merged["fused_memory_ratio"] == 0.04 and merged["payload_max_abs_diff"] == 1e-6
    assert merged["measured"]["fused"]["commit"] == "0123456789abcdef"
    assert merged["measured"]["payloads"]["commit"] == "later"


def test_the_page_holds_every_headline_against_its_target() -> None:
    lines = render(results_of(("fused", FUSED))).splitlines()
    memory = next(line for line in lines if "`fused_memory_ratio`" in line)
    seconds = next(line for line in lines if "`fused_time_ratio`" in line)
    assert "| 0.04 | at most 0.05 | yes |" in memory
    assert "| 1.3 | at most 1.15 | no |" in seconds


def test_a_section_says_what_was_measured_where_and_what_came_out() -> None:
    page = render(results_of(("fused", FUSED)))
    assert "commit `0123456789ab`, a machine; torch 2.13." in page
    assert "| 2,048 | fused | 27.5 |" in page
    assert "- a note" in page


def test_only_what_was_measured_has_a_section() -> None:
    page = render(results_of(("fused", FUSED)))
    assert [title for title in MEASUREMENTS.values() if f"## {title}" in page] == ["Fused divergence"]


def test_the_planners_runs_are_a_table_of_their_totals() -> None:
    run = {
        "settings": [],
        "predicted_gib": {"rollout": 2.0, "learner": 3.0},
        "measured_gib": {"rollout": 2.5, "learner": 3.5},
        "error": -1 / 6,
    }
    raw = {"plan_memory_error": 1 / 6, "plan_memory_raw": {"runs": {"demo": run}, "bare_processes_gib": {}}}
    assert "| demo | 5 | 6 | -0.167 |" in render(results_of(("plan_memory", raw)))
