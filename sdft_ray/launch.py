"""The command: `python -m sdft_ray.launch +cluster=local`. Composes the settings, runs the job, ends with one error.

With mode=plan it prints what the run would take, and starts nothing; with mode=report it makes a page of run folders.
mode=evaluate measures a model as it is, and mode=check_teacher asks it whether the demonstrations are of use to it;
neither trains anything. With `seeds` it does one run after the other, and says what they came to together.

Hydra and its DictConfig stay in this file; everybody else gets checked dataclasses.
"""

import asyncio
import copy
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdft_ray.cluster.finished import finished_run, run_name
from sdft_ray.config import Mode, ReportConfig, RunConfig
from sdft_ray.errors import ConfigError, SdftError
from sdft_ray.outcome import Outcome

PACKAGE = Path(__file__).resolve().parent
# Installed, the settings lie inside the package; in a clone beside it.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())

ConfigStore.instance().store(name="run_config", node=RunConfig)

Stage = tuple[str, RunConfig, dict[str, Any]]  # its name, its checked settings, the same as plain containers


def typed_config(composed: DictConfig) -> tuple[RunConfig, dict[str, Any]]:
    """The checked settings, and the same as plain containers.

    Raises:
        ConfigError: no cluster was chosen, or a setting has a value that cannot be used.
    """
    if OmegaConf.is_missing(composed, "cluster"):
        clusters = ", ".join(sorted(path.stem for path in (CONF / "cluster").glob("*.yaml")))
        problem = "no cluster was chosen"
        raise ConfigError("+cluster", "", problem, f"add +cluster=NAME with one of: {clusters}")
    cfg = _checked(composed)
    assert isinstance(cfg, RunConfig)
    settings: Any = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    settings["model"]["dtype"] = cfg.model.dtype.name  # what AUTO stands for here
    settings["learner"]["precision"] = cfg.learner.precision.name
    return cfg, settings


def compose_stages(composed: DictConfig) -> list[tuple[str, DictConfig]]:
    """Name and composition of every stage: the command's, with the stage's data configuration and own settings.

    Raises:
        ConfigError: a stage does not compose.
    """
    if not composed.stages:
        return [("", composed)]
    given = [override for override in HydraConfig.get().overrides.task if not override.startswith("data=")]
    stages = []
    for entry in composed.stages:
        name, *own = entry.split() or [""]
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
        cfg, _ = typed_config(stages[0][1])
        name = run_name(cfg)  # one for all of them, where it is made of the time
        runs = [[(stage, _of_seed(of_stage, seed, name)) for stage, of_stage in stages] for seed in cfg.seeds]
    return [[(name, *typed_config(of_stage)) for name, of_stage in run] for run in runs]


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
    cfg = _checked(composed.report)
    assert isinstance(cfg, ReportConfig)
    return list(composed.runs), cfg


def _checked(composed: DictConfig) -> Any:
    """The dataclass that the settings are made for."""
    try:
        return OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise SdftError(" ".join(str(error).split())) from error


def _log_to(path: Path) -> None:
    """Sends the log messages and warnings of all libraries to a file; the terminal belongs to the run."""
    logging.captureWarnings(True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


def show_plan(cfg: RunConfig) -> None:
    """Prints the plan of a run; makes no run folder and starts no process.

    Raises:
        ConfigError, DataError, ModelError: with the key, the value and the remedy.
    """
    from rich.console import Console  # here: as below

    from sdft_ray.cluster.topology import needed_roles
    from sdft_ray.planning.plan import make_plan

    make_plan(cfg, needed_roles(cfg)).show(Console(highlight=False))


def show_report(runs: list[str], cfg: ReportConfig) -> None:
    """Writes the page of run folders and says where it lies.

    Raises:
        ConfigError, DataError: with the key or the file, the value or the line, and the remedy.
    """
    from sdft_ray.report.writing import write_report  # here: as above

    report = write_report(runs, cfg)
    print(f"{len(report.study.runs)} runs in {len(report.study.arms)} arms")
    print(f"page     {report.page}")
    for path in report.tables:
        print(f"table    {path}")
    if report.figures is not None:
        print(f"figures  {report.figures}")


def show_seeds(folders: Sequence[Path]) -> None:
    """Prints what the runs of several seeds came to.

    Raises:
        DataError: a file of a run is broken; with the file and the line.
    """
    from rich.console import Console  # here: as above

    from sdft_ray.report.seeds import print_results

    print_results(folders, Console(highlight=False))


def make_job(stages: Sequence[Stage]) -> Any:
    """What the mode runs. Imported here: a wrong setting should not wait for Ray and transformers."""
    _, cfg, settings = stages[0]  # what trains nothing has no stages
    if cfg.mode is Mode.evaluate:
        from sdft_ray.cluster.evaluation import EvaluationJob

        return EvaluationJob(cfg, settings)
    if cfg.mode is Mode.check_teacher:
        from sdft_ray.cluster.check import TeacherCheck

        return TeacherCheck(cfg, settings)
    from sdft_ray.cluster.job import Job

    return Job([(name, of_stage) for name, of_stage, _ in stages], settings)


def run(stages: Sequence[Stage], outcome: Outcome) -> Path:
    """Does one run, unless it is finished, and returns its folder.

    Several in one process are as good as one a process: each has an event loop, a Ray and a log of its own, all
    workers are processes that end with it, and Hydra does no different with the runs of a sweep.
    """
    _, cfg, settings = stages[0]
    if (finished := finished_run(cfg, settings)) is not None:
        print(finished)
        return finished.path
    outcome.log = None  # that of the run before
    job = make_job(stages)
    outcome.log = job.folder.logs / "driver.log"
    _log_to(outcome.log)
    asyncio.run(job.run())
    folder: Path = job.folder.path
    return folder


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(composed: DictConfig) -> None:
    """Entry point of `python -m sdft_ray.launch`."""
    with Outcome() as outcome:
        if composed.mode is Mode.report:
            show_report(*report_config(composed))
            return
        runs = compose_runs(composed)
        _, cfg, _ = runs[0][0]
        if cfg.mode is Mode.plan:
            show_plan(cfg)
            return
        if cfg.mode is not Mode.train:
            outcome.remedy = "start it again under another name"
        if composed.seeds:
            outcome.remedy = "go on with resume=auto, the same seeds, and name as it stands before -seed in the folders"
        folders = [run(stages, outcome) for stages in runs]
        if composed.seeds:
            show_seeds(folders)
    if outcome.code:
        sys.exit(outcome.code)


if __name__ == "__main__":
    main()
