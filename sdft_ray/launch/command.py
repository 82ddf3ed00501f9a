"""The command itself: checks all runs, does one after the other, and ends with at most one error."""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from rich.console import Console

from sdft_ray.cluster.finished import finished_run
from sdft_ray.config import Mode
from sdft_ray.launch.composing import Stage, compose_runs, report_config
from sdft_ray.launch.help import show_help
from sdft_ray.launch.overrides import CONF, check_overrides, readable
from sdft_ray.launch.showing import show_plan, show_report, show_seeds
from sdft_ray.outcome import Outcome

HELP = {"--help", "-h"}


def main() -> None:
    """Entry point of `sdft` and of `python -m sdft_ray.launch`."""
    if HELP & set(sys.argv[1:]):  # Hydra's own would print every setting without its meaning
        show_help(Console(highlight=False))
        return
    with Outcome() as outcome:
        check_overrides(get_args_parser().parse_args().overrides)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors then, and does not print them in its own way
        try:
            _composed()
        except HydraException as error:
            raise readable(error) from error
    if outcome.code:
        sys.exit(outcome.code)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _composed(composed: DictConfig) -> None:
    """What the settings ask for; once for every run of a sweep."""
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


def make_job(stages: Sequence[Stage]) -> Any:
    """What the mode runs. Imported here: a wrong setting should not wait for Ray and transformers."""
    _, cfg, settings = stages[0]  # what trains nothing has no stages
    if cfg.mode is Mode.evaluate:
        from sdft_ray.cluster.evaluation import EvaluationJob

        return EvaluationJob(cfg, settings)
    if cfg.mode is Mode.check_teacher:
        from sdft_ray.cluster.check import TeacherCheck

        return TeacherCheck(cfg, settings, HydraConfig.get().overrides.task)
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
    folder: Path = job.folder.path
    try:
        with job.folder:
            asyncio.run(job.run())
    finally:
        if not folder.exists():  # the start was refused
            outcome.log = None
    return folder


def _log_to(path: Path) -> None:
    """Sends the log messages and warnings of all libraries to a file; the terminal belongs to the run."""
    logging.captureWarnings(True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
