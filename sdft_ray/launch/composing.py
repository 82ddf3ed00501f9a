"""From composed settings to checked ones: of one run, of its stages, of the runs of several seeds."""

import copy
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdft_ray.cluster.finished import run_name
from sdft_ray.config import ReportConfig, RunConfig, TargetConfig
from sdft_ray.config.keys import check_keys
from sdft_ray.errors import ConfigError, SdftError
from sdft_ray.launch.overrides import CONF, check_overrides, readable

ConfigStore.instance().store(name="run_config", node=RunConfig)

Stage = tuple[str, RunConfig]  # its name, its checked settings


def compose_config(*overrides: str) -> RunConfig:
    """The checked settings of a run, as the command makes them: `compose_config("+cluster=local", "+recipe=facts")`.

    Raises:
        ConfigError: no cluster was chosen, a key is none, or a setting has a value that cannot be used.
        SdftError: the settings do not compose, such as one of a preset that there is not.
    """
    check_overrides(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            composed = compose("config", list(overrides))
        except HydraException as error:
            raise readable(error) from error
    return typed_config(composed)


def typed_config(composed: DictConfig) -> RunConfig:
    """The checked settings.

    Raises:
        ConfigError: no cluster was chosen, a key is none, or a setting has a value that cannot be used.
    """
    if OmegaConf.is_missing(composed, "cluster"):
        clusters = ", ".join(sorted(path.stem for path in (CONF / "cluster").glob("*.yaml")))
        problem = "no cluster was chosen"
        raise ConfigError("+cluster", "", problem, f"add +cluster=NAME with one of: {clusters}")
    cfg = _checked(composed, RunConfig)
    assert isinstance(cfg, RunConfig)
    return cfg


def compose_stages(composed: DictConfig) -> list[tuple[str, DictConfig]]:
    """Name and composition of every stage: the command's, with the stage's data configuration and own settings.

    Raises:
        ConfigError: a stage does not compose, or sets what is no setting.
    """
    if not composed.stages:
        return [("", composed)]
    given = [override for override in HydraConfig.get().overrides.task if not override.startswith("data=")]
    stages = []
    for entry in composed.stages:
        name, *own = entry.split() or [""]
        check_overrides(own)
        try:
            stages.append((name, compose("config", [*given, f"data={name}", *own])))
        except HydraException as error:
            remedy = "name configurations in conf/data, each with settings of its own behind it: 'tools num_steps=40'"
            raise ConfigError("stages", repr(entry), " ".join(str(error).split()), remedy) from error
    return stages


def compose_runs(composed: DictConfig) -> list[list[Stage]]:
    """The stages of every run: of one, or of one for each of `seeds`, all of them checked before the first begins.

    The runs of several seeds differ in seed and name, and in what is interpolated from these.

    Raises:
        ConfigError: a stage does not compose, or a setting has a value that cannot be used.
    """
    stages = compose_stages(composed)
    runs = [stages]
    if composed.seeds:
        cfg = typed_config(stages[0][1])
        name = run_name(cfg)  # one for all of them, where it is made of the time
        runs = [[(stage, _of_seed(of_stage, seed, name)) for stage, of_stage in stages] for seed in cfg.seeds]
    return [[(name, typed_config(of_stage)) for name, of_stage in run] for run in runs]


def _of_seed(composed: DictConfig, seed: int, name: str) -> DictConfig:
    own = copy.deepcopy(composed)
    own.seed, own.seeds = seed, []
    own.name = f"{own.name or name}-seed-{seed}"
    return own


def report_config(composed: DictConfig) -> tuple[list[str], ReportConfig]:
    """The run folders and the settings of mode=report, which needs no other, no cluster above all.

    Raises:
        ConfigError: a setting has a value that cannot be used.
    """
    if composed.seeds:
        remedy = "leave it out, and name the folders of all seeds in runs, such as runs=[runs/NAME-seed-*]"
        raise ConfigError("seeds", composed.seeds, "starts runs, but mode=report reads those there are", remedy)
    cfg = _checked(composed.report, ReportConfig, "report.")
    assert isinstance(cfg, ReportConfig)
    return list(composed.runs), cfg


def job_config(composed: DictConfig) -> tuple[str, str, TargetConfig]:
    """Name, runs_dir and target of a job that is asked after, which needs no other setting.

    Raises:
        ConfigError: a setting has a value that cannot be used.
    """
    target = _checked(composed.target, TargetConfig, "target.")
    assert isinstance(target, TargetConfig)
    return str(composed.name), str(composed.runs_dir), target


def _checked(composed: DictConfig, kind: type, prefix: str = "") -> Any:
    """The dataclass `kind` that the settings are made for."""
    settings: Any = OmegaConf.to_container(composed)
    check_keys(settings, kind, prefix)
    try:
        return OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise SdftError(" ".join(str(error).split())) from error
