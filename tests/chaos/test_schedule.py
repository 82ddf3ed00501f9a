"""The chaos run's schedule and verdict, without a run: what is due is decided by a seed, and what is wrong is seen."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos.__main__ import is_passed
from tests.chaos.schedule import STRIKES, Leg, make_schedule, num_faults
from tests.chaos.soak import Holding, slopes
from tests.chaos.verdict import figures, trained


def test_a_seed_decides_the_order_and_every_order_has_every_fault() -> None:
    assert make_schedule(3, short=False) == make_schedule(3, short=False) != make_schedule(4, short=False)
    for seed in range(5):
        legs = make_schedule(seed, short=False)
        assert sorted(strike.name for leg in legs for strike in leg.strikes) == sorted(one.name for one in STRIKES)
        assert num_faults(legs) >= 25


def write_run(folder: Path, examples: Sequence[str], steps: Sequence[int]) -> Path:
    samples = [{"step": 1, "epoch": index // 4, "example_id": name} for index, name in enumerate(examples)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "learner/loss": 1}) + "\n" for step in steps)
    )
    return folder


@pytest.mark.parametrize(
    ("examples", "lost", "twice"),
    [("abcddcba", 0, 0), ("abcadcba", 1, 1), ("abcddcb", 2, 0)],
    ids=["each once", "one in the place of another", "one is missing"],
)
def test_an_example_that_is_lost_or_trained_twice_is_counted(
    tmp_path: Path, examples: str, lost: int, twice: int
) -> None:
    found = trained(write_run(tmp_path, examples, [1, 2, 3, 4]), batch_size=2, num_examples=4)
    assert (found["examples_lost"], found["examples_trained_twice"]) == (lost, twice)
    assert found["steps_in_order"]
    assert not trained(write_run(tmp_path, examples, [1, 3, 4]), 2, 4)["steps_in_order"]


def test_a_run_passes_only_where_all_faults_were_survived_and_nothing_is_left() -> None:
    legs = [Leg(STRIKES[:2], "SIGTERM"), Leg(STRIKES[2:3], "the run's end")]
    events = [
        {"strike": strike.name, "state": state, "found_s": 1.0, "recovered_s": 3.0}
        for strike in STRIKES[:3]
        for state in ("due", "survived")
    ]
    whole = figures(legs, events, [143, 0]) | {
        "examples_lost": 0,
        "examples_trained_twice": 0,
        "processes_left": 0,
        "shared_memory_left": [],
        "steps_in_order": True,
        "problems": [],
    }
    assert whole["faults_injected"] == whole["faults_survived"] == 4 and whole["stopped_cleanly"] == 1
    assert is_passed(whole)
    one_is_not = figures(legs, events[:-1], [143, 0])
    assert (one_is_not["faults_injected"], one_is_not["faults_survived"]) == (4, 3)
    assert not is_passed(whole | one_is_not)
    assert figures(legs, events[:1], [])["faults_injected"] == 1, "interrupted"
    assert not is_passed(whole | figures(legs, events, [143])), "the second start is missing"
    for key, value in [("examples_lost", 1), ("processes_left", 1), ("shared_memory_left", ["psm_1"])]:
        assert not is_passed(whole | {key: value})


def test_growth_behind_the_first_third_is_told_and_what_comes_before_is_not() -> None:
    flat = [Holding(step, 50.0 if step < 100 else 500.0, 30, 12) for step in range(0, 300, 10)]
    assert slopes(flat) == {"mb_per_100_steps": 0.0, "files_per_100_steps": 0.0, "threads_per_100_steps": 0.0}
    growing = [Holding(step, 500.0 + step / 50, 30 + step // 10, 12) for step in range(0, 300, 10)]
    assert slopes(growing)["mb_per_100_steps"] == pytest.approx(2 * 1.048576, abs=1e-3)
    assert slopes(growing)["files_per_100_steps"] == pytest.approx(10.0)
