"""What a run has written and added up of steps that are taken again is taken back, all of it."""

import io
import json
from pathlib import Path

from rich.console import Console

from sdft_ray.cluster.run_records import RunRecords
from sdft_ray.config import AlarmsConfig, Best
from sdft_ray.learner.saving import BestCheckpoint
from sdft_ray.tracking.console import ConsoleSink

STEP_S = 2.0


def make_records(folder: Path, best: BestCheckpoint) -> RunRecords:
    return RunRecords(
        folder,
        str,
        None,
        alarms=AlarmsConfig(patience=3, stop=True),
        best=best,
        console=ConsoleSink(9, Console(file=io.StringIO())),
    )


def take_step(records: RunRecords, step: int, *, loss: float, grad_norm: float) -> None:
    metrics = {"loop/step_s": STEP_S, "learner/loss": loss, "learner/grad_norm": grad_norm, "rollout/tokens": 10.0}
    records.alarms.watch(step, metrics)
    for sink in records.sinks:
        sink.log_step(step, float(step), metrics, ())


def test_steps_that_are_taken_again_count_once_in_summary_best_checkpoint_and_alarms(tmp_path: Path) -> None:
    best = BestCheckpoint("learner/loss", Best.LOWEST)
    records = make_records(tmp_path, best)
    for step in range(1, 7):
        (tmp_path / "checkpoints" / f"step-{step:06}").mkdir(parents=True)
        take_step(records, step, loss=1.0 - step / 10, grad_norm=0.0 if step > 2 else 1.0)
    assert "vanished" in records.alarms.reason_to_stop
    records.go_back_to(2, "")
    assert records.alarms.reason_to_stop == ""
    for step in range(3, 7):
        take_step(records, step, loss=2.0 - step / 10, grad_norm=1.0)
    built = records.summary.build(wall_s=1.0, setup_s=0.0, statuses=[])
    assert (built["num_steps"], built["rollout_tokens"], built["seconds"]["step"]) == (6, 60, STEP_S)
    chosen = best.choose(tmp_path / "checkpoints")
    assert chosen is not None and chosen[0].name == "step-000002"
    assert (tmp_path / "alarms.jsonl").read_text() == ""
    (moved,) = (tmp_path / "earlier").glob("alarms.*")
    assert json.loads(moved.read_text())["rule"] == "vanished"
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
