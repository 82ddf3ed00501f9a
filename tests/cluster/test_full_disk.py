"""A run on a disk that fills up goes on without checkpoints for a while, ends, and is resumed with more room."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.learner.checkpoint import complete_checkpoints
from sdft_ray.learner.manifest import check_sound
from tests.cluster.command import SETTINGS
from tests.cluster.in_process import run_in_process
from tests.full_disk import small_file_system

ROOM_KIB = 4 * 1024  # for two checkpoints of the tiny model, and not for the next beside them


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_file_system(tmp_path / "disk", ROOM_KIB) as folder:
        yield folder


def test_a_run_on_a_full_disk_ends_with_its_last_checkpoint_and_goes_on_with_more_room(
    cluster: Any, folder: str, disk: Path
) -> None:
    settings = [*SETTINGS, f"model.path={folder}", f"runs_dir={disk}", "name=run", "method=sft", "num_steps=8"]
    settings += ["checkpoint_every=1", "keep_checkpoints=2", "faults.max_failed_saves=3", "resume=auto"]
    settings += ["preflight=false"]  # which would refuse so small a disk
    settings += ["keep_best=learner/loss", "best=LOWEST"]
    code, output = run_in_process(*settings)
    assert code == 1, output
    assert output.count("not saved ") == 2 and "No space left on device" in output
    assert "That was save 3 in a row, and faults.max_failed_saves=3: make room" in output.splitlines()[-1]
    newest = complete_checkpoints(disk / "run" / "checkpoints")[-1]
    check_sound(newest)
    assert f"{newest} stays" in output

    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    code, output = run_in_process(*settings)
    assert code == 0, output
    assert f"resumed        {newest}" in output
    steps = [json.loads(line)["step"] for line in (disk / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))
    summary = json.loads((disk / "run" / "summary.json").read_text())
    assert summary["best_checkpoint"]["folder"] in output
