import json
from pathlib import Path
from typing import Any

from sdft_ray.config import ReportConfig
from sdft_ray.faults import Fault, FaultKind
from sdft_ray.report.writing import write_report
from sdft_ray.tracking.faults import FaultLog
from sdft_ray.tracking.metrics import check_declared
from tests.full_disk import no_file_beyond
from tests.report.folders import settings_of, step_line, write_run


def fault(kind: FaultKind, **fields: Any) -> Fault:
    known = {"role": "rollout", "rank": 3, "node": "10.0.0.7", "text": f"rollout worker 3 {kind.word}"}
    return Fault(kind=kind, **known | fields)


def test_every_fault_is_said_written_and_counted_in_the_next_step(tmp_path: Path) -> None:
    said: list[str] = []
    log = FaultLog(said.append)
    log.tell(fault(FaultKind.LOST))
    assert not list(tmp_path.iterdir()), "the folder is not the run's before the start has succeeded"
    log.open(tmp_path, lambda: 5, resumes=False)
    log.tell(fault(FaultKind.REPLACED, seconds=12.5))
    log.tell(fault(FaultKind.DROPPED, count=8))
    lines = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"], line["count"]) for line in lines] == [
        ("lost", 0, 1),
        ("replaced", 5, 1),
        ("dropped", 5, 8),
    ]
    assert said[1] == "replaced       rollout worker 3 replaced after 12.5 s"
    metrics = log.take_metrics()
    assert metrics == {
        "faults/lost_workers": 1,
        "faults/replaced_workers": 1,
        "faults/recovery_s": 12.5,
        "faults/dropped_samples": 8,
    }
    assert log.take_metrics() == {}


def test_what_found_no_room_is_written_when_the_log_is_closed(tmp_path: Path) -> None:
    said: list[str] = []
    log = FaultLog(said.append)
    log.open(tmp_path, lambda: 5, resumes=False)
    with no_file_beyond(10):
        log.tell(fault(FaultKind.LOST))
    assert not (tmp_path / "faults.jsonl").read_text()
    log.close()
    assert "lost" in (tmp_path / "faults.jsonl").read_text()


def test_every_kind_of_fault_has_a_declared_metric() -> None:
    check_declared(kind.metric for kind in FaultKind)


def test_what_a_run_has_survived_stays_when_it_is_resumed_and_moves_away_when_it_begins_again(tmp_path: Path) -> None:
    for resumes, expected in ((False, 1), (True, 2), (False, 1)):
        log = FaultLog(lambda line: None)
        log.open(tmp_path, lambda: 0, resumes=resumes)
        log.tell(fault(FaultKind.HUNG))
        assert len((tmp_path / "faults.jsonl").read_text().splitlines()) == expected
    assert len((tmp_path / "earlier" / "faults.1.jsonl").read_text().splitlines()) == 2


def test_the_report_of_a_run_shows_what_it_has_survived(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", settings_of("sdft", 0), [step_line(1, learner__loss=1.0)])
    out = ReportConfig(out=str(tmp_path / "page.html"))
    write_report([str(run)], out)
    assert "Faults survived" not in (tmp_path / "page.html").read_text()
    log = FaultLog(lambda line: None)
    log.open(run, lambda: 1, resumes=False)
    log.tell(fault(FaultKind.HUNG, text="rollout worker 3 was lost: it has not answered"))
    write_report([str(run)], out)
    page = (tmp_path / "page.html").read_text()
    assert "Faults survived" in page
    assert "rollout worker 3 was lost: it has not answered" in page and "10.0.0.7" in page
