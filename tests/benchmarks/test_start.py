"""The parts of a start are read from what a run has logged."""

from pathlib import Path

import pytest

from tests.benchmarks.start import parts_of, read_log

LOG = """\
2026-01-01 10:00:08,000 sdft_ray.tracking.console INFO sdft_paper: 1 steps of 8 samples
2026-01-01 10:00:09,000 sdft_ray.tracking.console INFO starting 1 rollout worker ...
2026-01-01 10:00:09,250 sdft_ray.tracking.console INFO starting 1 learner worker ...
2026-01-01 10:00:11,000 some.library WARNING starting 1 rollout worker ... 2 s
2026-01-01 10:00:19,500 sdft_ray.tracking.console INFO starting 1 learner worker ... 10 s
2026-01-01 10:00:29,000 sdft_ray.tracking.console INFO starting 1 rollout worker ... 20 s
2026-01-01 10:00:29,000 sdft_ray.tracking.console INFO evaluating after step 0 ...
2026-01-01 10:00:39,000 sdft_ray.tracking.console INFO evaluating after step 0 ... 70 of 72
2026-01-01 10:00:40,500 sdft_ray.tracking.console INFO evaluating after step 0 ... 12 s
2026-01-01 10:00:44,000 sdft_ray.tracking.console INFO step 1/1  loss 0.4134
2026-01-01 10:00:44,000 sdft_ray.tracking.console INFO evaluating after step 1 ...
"""


def test_every_part_begins_and_ends_where_the_run_has_said_so(tmp_path: Path) -> None:
    path = tmp_path / "driver.log"
    path.write_text(LOG)
    lines = read_log(path)
    command_s = lines[0].time_s - 8
    parts = [tuple(part) for part in parts_of(lines, command_s, read_s=command_s + 5)]
    assert [name for name, *_ in parts] == [
        "imports, model and data",
        "Ray",
        "rollout worker",
        "learner worker",
        "first evaluation",
        "first step",
    ]
    times = [pytest.approx(time_s) for _, *both in parts for time_s in both]
    assert times == [0, 5, 5, 8, 9, 29, 9.25, 19.5, 29, 40.5, 40.5, 44]
