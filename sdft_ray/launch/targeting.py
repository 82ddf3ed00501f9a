"""The modes of a target other than this machine: what it is handed, and whether that is right."""

import sys
from collections.abc import Sequence
from pathlib import Path

from sdft_ray.config import Mode, RunConfig, TargetKind
from sdft_ray.errors import ConfigError, SdftError
from sdft_ray.launch.composing import Stage
from sdft_ray.targets.run_file import OPTION

OF_TARGETS = (Mode.render, Mode.check)


def check_target(cfg: RunConfig) -> None:
    """Refuses a mode that the target does not have.

    Raises:
        ConfigError: names target or mode.
    """
    if cfg.target.kind is TargetKind.HERE and cfg.mode in OF_TARGETS:
        remedy = "add target=kuberay, or leave mode out to run here"
        raise ConfigError("mode", cfg.mode.name, "is of a target other than this machine", remedy)
    if cfg.target.kind is not TargetKind.HERE and cfg.mode not in (*OF_TARGETS, Mode.plan):
        names = " or ".join(mode.name for mode in OF_TARGETS)
        problem = f"mode={cfg.mode.name} would run on this machine"
        raise ConfigError("target", cfg.target.kind.name.lower(), problem, f"set mode={names}, or leave target out")


def show_rendered(runs: Sequence[Sequence[Stage]]) -> None:
    """Prints the objects of a job as YAML, and starts nothing.

    Raises:
        ConfigError: a setting has no meaning there; with the key, the value and the remedy.
    """
    from sdft_ray.targets.kuberay.objects import render, written

    sys.stdout.write(written(render(runs)))


def check_rendered(runs: Sequence[Sequence[Stage]]) -> None:
    """Prints what is wrong with the objects of a job; asks no cluster.

    Raises:
        ConfigError: a setting has no meaning there; with the key, the value and the remedy.
        SdftError: a rule is broken, or target.crds cannot be read.
    """
    from sdft_ray.targets.kuberay.check import check_objects, read_schema
    from sdft_ray.targets.kuberay.objects import render

    _, cfg = runs[0][0]
    objects = render(runs)
    checked = check_objects(objects, cfg, read_schema(cfg.target))
    for thing in objects:
        print(f"rendered     {thing['kind']} {thing['metadata']['namespace']}/{thing['metadata']['name']}")
    for sentence in checked.not_checked:
        print(f"not checked  {sentence}")
    for finding in checked.findings:
        print(f"broken       {finding}")
    if checked.findings:
        raise SdftError(f"{len(checked.findings)} rules are broken; a cluster would refuse this job, or never run it.")
    print("no rule is broken")


def run_file(arguments: Sequence[str]) -> Path | None:
    """The file of runs that the command is given in place of settings; None where it is given settings.

    Raises:
        ConfigError: it is given both.
    """
    given = [argument for argument in arguments if argument.startswith(OPTION)]
    if not given:
        return None
    if more := [argument for argument in arguments if argument not in given[:1]]:
        problem = f"its settings are complete, and {more[0]} would change them"
        raise ConfigError(OPTION.rstrip("="), given[0].removeprefix(OPTION), problem, "render the job with it")
    return Path(given[0].removeprefix(OPTION))
