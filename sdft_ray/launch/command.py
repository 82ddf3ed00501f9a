"""The command itself: checks all runs, does one after the other, and ends with at most one error."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from rich.console import Console

from sdft_ray.api import check_teacher, evaluate, preflight, train
from sdft_ray.config import Mode
from sdft_ray.launch.composing import Stage, compose_runs, job_config, report_config
from sdft_ray.launch.help import show_help
from sdft_ray.launch.jobs import follow_logs, show_status, stop_job, submit_job
from sdft_ray.launch.overrides import CONF, check_overrides, readable
from sdft_ray.launch.showing import show_plan, show_report, show_rows, show_seeds
from sdft_ray.launch.targeting import check_rendered, check_target, run_file, show_rendered
from sdft_ray.launch.terminal import outlasting_terminal
from sdft_ray.launch.watching import show_stacks, show_top
from sdft_ray.outcome import Outcome
from sdft_ray.targets.run_file import read_runs

HELP = {"--help", "-h"}
# What prints and starts nothing.
SHOWING = {Mode.plan: show_plan, Mode.show: show_rows, Mode.render: show_rendered, Mode.check: check_rendered}
# What needs a job's name and its target alone.
OF_JOBS = {
    Mode.status: show_status,
    Mode.logs: follow_logs,
    Mode.stop: stop_job,
    Mode.top: show_top,
    Mode.stacks: show_stacks,
}


def main() -> None:
    """Entry point of `sdft` and of `python -m sdft_ray.launch`."""
    if HELP & set(sys.argv[1:]):  # Hydra's own would print every setting without its meaning
        show_help(Console(highlight=False))
        return
    with Outcome() as outcome:
        if path := run_file(sys.argv[1:]):
            _run_all(read_runs(path), outcome)
        else:
            _compose()
    if outcome.code:
        sys.exit(outcome.code)


def _compose() -> None:
    """Has Hydra compose the settings and call `_composed` with them."""
    arguments = get_args_parser().parse_args()
    if not arguments.shell_completion:  # its own arguments, such as install=bash, are no settings
        check_overrides(arguments.overrides)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors then, and does not print them in its own way
    try:
        _composed()
    except HydraException as error:
        raise readable(error) from error


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _composed(composed: DictConfig) -> None:
    """What the settings ask for; once for every run of a sweep."""
    with Outcome() as outcome:
        if composed.mode is Mode.report:
            show_report(*report_config(composed))
            return
        if composed.mode in OF_JOBS:
            name, runs_dir, target = job_config(composed)
            check_target(composed.mode, target)
            outcome.code = OF_JOBS[composed.mode](name, runs_dir, target)
        else:
            _do(compose_runs(composed), outcome)
    if outcome.code:
        sys.exit(outcome.code)


def _do(runs: Sequence[Sequence[Stage]], outcome: Outcome) -> None:
    """What the settings of whole runs ask for."""
    _, cfg = runs[0][0]
    check_target(cfg.mode, cfg.target)
    if cfg.mode is Mode.submit:
        outcome.code = submit_job(runs)
    elif cfg.mode in SHOWING:
        SHOWING[cfg.mode](runs)
    else:
        _run_all(runs, outcome)


def _run_all(runs: Sequence[Sequence[Stage]], outcome: Outcome) -> None:
    """Does one run after the other, and prints what several seeds came to."""
    _, cfg = runs[0][0]
    if cfg.mode is not Mode.train:
        outcome.remedy = "start it again under another name"
    if len(runs) > 1:
        outcome.remedy = "go on with resume=auto, the same seeds, and name as it stands before -seed in the folders"
    with outlasting_terminal():
        folders = [run(stages, outcome) for stages in runs]
        if len(runs) > 1:
            show_seeds(folders)


def run(stages: Sequence[Stage], outcome: Outcome) -> Path:
    """Does one run, unless it is finished, and returns its folder."""
    signal.signal(signal.SIGTERM, _end)  # until the run listens itself
    _, cfg = stages[0]  # what only asks the model has no stages
    outcome.log = None  # that of the run before
    if cfg.mode is Mode.evaluate:
        return evaluate(cfg, on_log=outcome.follow).folder
    if cfg.mode is Mode.check_teacher:
        overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else None
        return check_teacher(cfg, overrides=overrides, on_log=outcome.follow).folder
    if cfg.mode is Mode.preflight:
        return preflight(stages, on_log=outcome.follow).folder
    return train(stages, on_log=outcome.follow).folder


def _end(number: int, frame: object) -> None:
    """As Ray's own handler, which takes this one's place while Ray starts; `Outcome` says what it was."""
    sys.exit(number)
