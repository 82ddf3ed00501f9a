"""The paper's experiments: every arm of every sweep is a run that can be started as it stands."""

import re
from copy import copy
from fnmatch import fnmatch
from functools import cache
from itertools import product
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import open_dict

from sdft_ray.config.saved import plain_settings
from sdft_ray.launch import CONF, Stage, compose_runs
from sdft_ray.planning.shapes import KNOWN_MODELS
from sdft_ray.report.paper import paper_tables

PAPER = paper_tables()
SMALL = ("claims", "demo", "teacher_pool")  # experiments of this project's own, on two cores
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml") if path.stem not in SMALL)
NEEDED = {"paper": ["data=jsonl", "data.source=some.jsonl", "name=mine"]}
MORE = ["evaluation.judge.dry_run=true", "seeds=[0]"]  # else a judge has to be named; one seed is as good as three


@cache
def composed(experiment: str, *arm: str) -> Any:
    overrides = ["+cluster=8xA100", f"+experiment={experiment}", *NEEDED.get(experiment, []), *arm, *MORE]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides, return_hydra_config=True)


def arms_of(experiment: str) -> list[tuple[str, ...]]:
    """The overrides of every arm, as Hydra's own sweeper makes them."""
    hydra = composed(experiment).hydra
    params = hydra.sweeper.params or {}
    assert (hydra.mode is RunMode.MULTIRUN) == bool(params)
    choices = [[f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()]
    return list(product(*choices))


@cache  # nobody changes what it answers, and three tests ask for every arm
def runs_of(experiment: str, arm: tuple[str, ...]) -> list[list[Stage]]:
    given = copy(composed(experiment, *arm))
    HydraConfig.instance().set_config(given)  # where the command's stages find what it was given
    with open_dict(given):
        del given["hydra"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose_runs(given)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_arm_composes_into_runs_with_folders_of_their_own(experiment: str) -> None:
    names, methods = [], []
    for arm in arms_of(experiment):
        for stages in runs_of(experiment, arm):
            _, cfg = stages[0]
            assert (cfg.resume, cfg.seeds) == ("auto", []), "a sweep is simply started again"
            assert cfg.cluster.name == "8xA100"
            names.append(cfg.name)
            methods.append(cfg.method.name)
    assert len(set(names)) == len(names)
    assert all(method in name for method, name in zip(methods, names, strict=True) if experiment != "paper")


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name != "paper"])
def test_the_report_in_the_header_finds_every_run(experiment: str) -> None:
    header = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    assert f"+experiment={experiment}" in header
    (pattern,) = re.findall(r"mode=report 'runs=\[runs/(\S+)\]'", header)
    names = [stages[0][1].name for arm in arms_of(experiment) for stages in runs_of(experiment, arm)]
    assert [name for name in names if not fnmatch(name, pattern)] == []
    assert set(re.findall(r"report\.paper=(\w+)", header)) <= set(PAPER)


@pytest.mark.parametrize("experiment", PAPER)
def test_no_two_runs_of_a_table_share_a_folder(experiment: str) -> None:
    """Those of re-invocation lie beside those they mend."""
    names = [
        stages[0][1].name
        for name in _with_reinvoke(experiment)
        for arm in arms_of(name)
        for stages in runs_of(name, arm)
    ]
    assert len(set(names)) == len(names)


def test_re_invocation_mends_the_model_of_its_own_seed() -> None:
    for experiment in ("skill_tooluse", "skill_science", "skill_medical"):
        sft = runs_of(experiment, ("method=sft",))[0][0][1]
        mending = runs_of(f"{experiment}_reinvoke", ())[0][0][1]
        assert mending.model.path == f"{sft.runs_dir}/{sft.name}/model"
        assert mending.teacher.path == sft.model.path


def test_every_model_of_the_scaling_experiment_can_be_planned_without_its_files() -> None:
    assert {runs_of("scaling", arm)[0][0][1].plan.model for arm in arms_of("scaling")} <= set(KNOWN_MODELS)


def test_every_experiment_has_three_seeds_unless_the_command_says_otherwise() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("config", ["+experiment=teacher_weights"]).seeds == [0, 1, 2]


def test_every_table_of_the_paper_has_its_experiment() -> None:
    assert set(PAPER) <= set(EXPERIMENTS)


@pytest.mark.parametrize("experiment", [name for name in PAPER if name in EXPERIMENTS])
def test_every_row_of_the_papers_table_has_an_arm(experiment: str) -> None:
    runs = [runs_of(name, arm)[0] for name in _with_reinvoke(experiment) for arm in arms_of(name)]
    for row in PAPER[experiment].rows:
        wanted = row.settings.items()
        made = any(all(_value(stages, key) in values for key, values in wanted) for stages in runs)
        assert made, f"{experiment} has no arm for the row {row.label!r}"


def test_the_sequence_of_three_skills_has_three_stages() -> None:
    (arm, *_) = arms_of("sequential")
    (stages, *_) = runs_of("sequential", arm)
    assert [name for name, _ in stages] == ["tooluse", "science", "medical"]
    assert [list(cfg.evaluation.sets) for _, cfg in stages] == [["tooluse"], ["science"], ["medical"]]


def _with_reinvoke(experiment: str) -> list[str]:
    """The experiment, and the one that mends its models where there is one."""
    return [name for name in (experiment, f"{experiment}_reinvoke") if name in EXPERIMENTS]


def _value(stages: list[Stage], key: str) -> str:
    value: Any = plain_settings(stages[0][1])
    for part in key.split("."):
        value = value[part]
    return str(value)
