"""What the command does before anything starts: which runs there are, and which are finished."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from sdft_ray.config.saved import plain_settings, write_settings
from sdft_ray.errors import ConfigError
from sdft_ray.launch import CONF, Stage, compose_runs, report_config, run
from sdft_ray.outcome import Outcome
from sdft_ray.report.arms import group_runs
from sdft_ray.report.runs import read_runs
from sdft_ray.tracking.summary import write_summary


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["+cluster=local", *overrides])


def runs_of(*overrides: str) -> list[list[Stage]]:
    return compose_runs(composed(*overrides))


def settings_of(stages: list[Stage]) -> dict[str, Any]:
    return plain_settings(stages[0][1])


def test_without_seeds_there_is_one_run_as_it_was_composed() -> None:
    ((stage,),) = runs_of("name=one", "seed=4")
    name, cfg = stage
    assert (name, cfg.name, cfg.seed) == ("", "one", 4)


def test_every_seed_is_a_run_that_differs_in_seed_and_name_alone() -> None:
    first, second = (settings_of(stages) for stages in runs_of("name=one", "seeds=[3,5]", "resume=auto"))
    assert {key: (first[key], second[key]) for key in first if first[key] != second[key]} == {
        "name": ("one-seed-3", "one-seed-5"),
        "seed": (3, 5),
    }
    assert first["seeds"] == []


def test_nameless_seeds_share_one_name() -> None:
    first, second = (settings_of(stages)["name"] for stages in runs_of("seeds=[0,1]", "method=sft"))
    assert first.startswith("sft-20") and first.endswith("-seed-0")
    assert second == first.removesuffix("0") + "1"


def test_what_names_the_seed_is_each_runs_own() -> None:
    paths = [settings_of(stages)["model"]["path"] for stages in runs_of("seeds=[0,2]", "model.path=sft-seed-${seed}")]
    assert paths == ["sft-seed-0", "sft-seed-2"]


def test_the_runs_of_all_seeds_are_one_arm(tmp_path: Path) -> None:
    folders = []
    for stages in runs_of("name=one", "seeds=[0,1,11]", "model.path=runs/sft-seed-${seed}/model"):
        folder = tmp_path / settings_of(stages)["name"]
        folder.mkdir()
        write_settings(folder, settings_of(stages))
        folders.append(str(folder))
    (arm,) = group_runs(read_runs(folders))
    assert [run.seed for run in arm.runs] == [0, 1, 11]


BAD_SEEDS = [
    (["seeds=[1,2,1]"], r"seeds=\[1, 2, 1\]: names a seed twice, .*; name every seed once"),
    (["seeds=[1]", "mode=evaluate"], r"seeds=\[1\]: repeats training, but mode=evaluate trains nothing; set seed"),
    (["seeds=[1]", "mode=check_teacher"], "mode=check_teacher trains nothing"),
    (["seeds=[1]", "resume=some/step-000010"], r"resume=some/step-000010: is the checkpoint of one run, .*resume=auto"),
    (["seeds=[1]", "resume=auto"], "resume=auto: says to go on, but not with which run"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD_SEEDS, ids=lambda value: str(value))
def test_seeds_that_make_no_sense_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        runs_of(*overrides)


def test_a_plan_is_the_same_for_all_seeds_and_a_report_has_none() -> None:
    assert len(runs_of("seeds=[1,2]", "mode=plan")) == 2
    with pytest.raises(ConfigError, match=r"seeds=\[1\]: .* mode=report .* runs=\[runs/NAME-seed-\*\]"):
        report_config(composed("seeds=[1]", "mode=report"))


def test_a_finished_run_is_kept_and_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ((stage,),) = runs_of(f"runs_dir={tmp_path}", "name=one", "resume=auto", "num_steps=4")
    folder = tmp_path / "one"
    folder.mkdir()
    write_settings(folder, plain_settings(stage[1]))
    write_summary(folder, {"num_steps": 4})
    assert run([stage], Outcome()) == folder
    assert capsys.readouterr().out == f"{folder} is finished; nothing to do\n"
