"""Several seeds in one command, as a user runs them: the learner alone, since what is repeated is a start."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SFT = ["method=sft", "num_steps=2", "resume=auto"]


@pytest.fixture(scope="module")
def seeds(command: Callable[..., Any]) -> tuple[Path, str]:
    found: tuple[Path, str] = command("two", "seeds=[0,1]", *SFT)
    return found


def test_every_seed_is_a_finished_run_with_its_own_order_and_log(seeds: tuple[Path, str]) -> None:
    path, output = seeds
    folders = [path.with_name(f"two-seed-{seed}") for seed in (0, 1)]
    losses = [
        [json.loads(line)["learner/loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in folders
    ]
    assert [len(of_seed) for of_seed in losses] == [2, 2]
    assert losses[0] != losses[1]
    assert all((folder / "summary.json").is_file() and (folder / "logs" / "driver.log").is_file() for folder in folders)
    assert "means over" not in output, "nothing was evaluated"


def test_the_same_command_again_keeps_what_is_finished_and_adds_a_seed(
    seeds: tuple[Path, str], launch: Callable[..., Any]
) -> None:
    path, _ = seeds
    before = {seed: path.with_name(f"two-seed-{seed}").joinpath("summary.json").read_text() for seed in (0, 1)}
    _, output = launch("two", "seeds=[0,1,2]", *SFT)
    assert output.count("is finished; nothing to do") == 2
    for seed, summary in before.items():
        assert path.with_name(f"two-seed-{seed}").joinpath("summary.json").read_text() == summary
    assert path.with_name("two-seed-2").joinpath("summary.json").is_file()
