"""Whatever a part does, the check goes on, and says what came of it."""

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.benchmarks.processes import ROOT
from tests.gpu_check.__main__ import check, main
from tests.gpu_check.page import FIGURES, PAGE, read_results, render
from tests.gpu_check.parts import PARTS, Part, Place
from tests.gpu_check.running import Outcome, outcome_of

MACHINE = {
    "date": "2026-11-28", "commit": "0123456789abcdef", "machine": "a machine", "packages": {"torch": "2.13"},
    "gpus": ["a GPU, 80 GiB"], "cuda": "13.0", "build": "2.13",
}  # fmt: skip
MEASURED = {"status": "passed", "why": "", "took_s": 2.5, "tables": {"": [{"tokens": 1024, "time_ms": 1.5}]}}
XML = (
    '<testsuites><testsuite><testcase name="a">{a}</testcase><testcase name="b">{b}</testcase></testsuite></testsuites>'
)


def run(tmp_path: Path, program: str, *, name: str = "part.json", limit_s: float = 60.0) -> Outcome:
    report = tmp_path / name
    return outcome_of([sys.executable, "-c", program, str(report)], tmp_path / "part.log", report, limit_s)


def writing(text: str, code: int = 0) -> str:
    return f"import sys; open(sys.argv[1], 'w').write({text!r}); sys.exit({code})"


def test_figures_of_a_part_are_its_outcome(tmp_path: Path) -> None:
    outcome = run(tmp_path, writing(json.dumps({"tables": {"": [{"a": 1}]}})))
    assert (outcome["status"], outcome["tables"]) == ("passed", {"": [{"a": 1}]})


def test_what_a_part_finds_absent_is_not_run(tmp_path: Path) -> None:
    assert run(tmp_path, writing('{"absent": "no model"}')) == {"status": "not run", "why": "no model"}


@pytest.mark.parametrize(
    "ending",
    [
        "raise AssertionError('off by 2')",
        "import os; print('off by 2', flush=True); os.abort()",
        "print('error: off by 2\\n  its traceback: a file'); raise SystemExit(1)",
    ],
)
def test_a_part_that_breaks_has_failed_with_its_last_words(tmp_path: Path, ending: str) -> None:
    outcome = run(tmp_path, ending)
    assert outcome["status"] == "failed" and "off by 2" in outcome["why"]


def test_a_part_without_figures_has_failed(tmp_path: Path) -> None:
    assert run(tmp_path, "pass") | {"took_s": 0} == {"status": "failed", "why": "it said nothing", "took_s": 0}


def test_a_part_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    outcome = run(tmp_path, "import time; time.sleep(600)", limit_s=0.2)
    assert (outcome["status"], outcome["why"]) == ("failed", "took longer than 0 s")
    assert outcome["took_s"] < 30


def test_what_a_part_has_started_ends_with_it(tmp_path: Path) -> None:
    started = tmp_path / "started"
    program = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(started)!r}, "w").write(str(child.pid))
"""
    run(tmp_path, program)
    child = int(started.read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_tests_are_counted_and_those_that_were_all_skipped_are_not_run(tmp_path: Path) -> None:
    failed = XML.format(a="", b='<failure message="wrong"/>')
    outcome = run(tmp_path, writing(failed, code=1), name="part.xml")
    assert outcome["status"] == "failed"
    assert outcome["tables"] == {"": [{"tests": 2, "passed": 1, "failed": 1, "skipped": 0}]}
    skipped = XML.format(a='<skipped message="no GPU"/>', b='<skipped message="no GPU"/>')
    assert run(tmp_path, writing(skipped), name="part.xml") == {"status": "not run", "why": "no GPU"}


def checked(folder: Path, outcomes: dict[str, Outcome], machine: dict[str, Any] = MACHINE) -> int:
    def run_fake(name: str, part: Part, place: Place) -> Outcome:
        return outcomes[name]

    return check(list(outcomes), Place("cuda", folder), folder, machine, run_fake)


def test_a_part_that_fails_does_not_end_the_others_and_is_told_by_the_exit_code(tmp_path: Path) -> None:
    failed = {"status": "failed", "why": "a | b", "took_s": 1.0}
    assert checked(tmp_path, {"divergence": failed, "learner": MEASURED}) == 1
    page = (tmp_path / PAGE).read_text()
    assert "failed: a \\| b | 1 |" in page
    assert "| 1,024 | 1.5 |" in page
    assert "2026-11-28, commit `0123456789ab`, a GPU, 80 GiB, CUDA 13.0; a machine; torch 2.13." in page
    assert checked(tmp_path, {"divergence": MEASURED, "learner": MEASURED}) == 0


def test_without_a_gpu_nothing_is_run_and_what_was_measured_elsewhere_stays(tmp_path: Path) -> None:
    assert checked(tmp_path, {"divergence": MEASURED}) == 0
    assert checked(tmp_path, {"divergence": {}, "learner": {}}, MACHINE | {"gpus": [], "build": "2.13+cpu"}) == 2
    results = json.loads((tmp_path / FIGURES).read_text())
    assert results["divergence"]["status"] == "passed"
    assert results["learner"]["why"] == "no GPU (torch 2.13+cpu sees none)"


def test_the_page_of_this_repository_is_made_of_its_figures() -> None:
    results = read_results(ROOT / "docs")
    assert results.keys() == PARTS.keys(), "make gpu-check writes a line for a new part, on any machine"
    assert (ROOT / "docs" / PAGE).read_text() == render(results)


def test_an_unknown_part_is_refused_with_those_there_are() -> None:
    with pytest.raises(SystemExit, match="there is no part fast: choose from light, device=cpu, test_attention"):
        main(["fast"])
