"""The modes of a target other than this machine: what it is handed, and whether that is right."""

import sys
from collections.abc import Sequence
from pathlib import Path

from sdft_ray.config import Mode, TargetConfig, TargetKind
from sdft_ray.errors import ConfigError, SdftError
from sdft_ray.launch.composing import Stage
from sdft_ray.targets.run_file import OPTION

OF_JOBS = (Mode.status, Mode.logs, Mode.stop)  # need a job's name, and no other setting of it
OF_TARGETS = (Mode.render, Mode.check, Mode.submit, *OF_JOBS)
NOT_OF = {  # what a target does not have, with the reason
    (TargetKind.RAY, Mode.render): "a Ray cluster is handed the settings alone; mode=submit does it",
    (TargetKind.RAY, Mode.check): "mode=preflight looks at a Ray cluster, from a machine of it",
    (TargetKind.SLURM, Mode.check): "sbatch checks the script of mode=render itself, with its option --test-only",
}


def check_target(mode: Mode, target: TargetConfig) -> None:
    """Refuses a mode that the target does not have.

    Raises:
        ConfigError: names target or mode.
    """
    if target.kind is TargetKind.HERE and mode in OF_TARGETS:
        remedy = "add target=ray, target=kuberay, target=slurm or target=ssh, or leave mode out to run here"
        raise ConfigError("mode", mode.name, "is of a target other than this machine", remedy)
    if target.kind is not TargetKind.HERE and mode not in (*OF_TARGETS, Mode.plan):
        names = ", ".join(mode.name for mode in OF_TARGETS)
        problem = f"mode={mode.name} would run on this machine"
        raise ConfigError("target", target.kind.name.lower(), problem, f"set mode to one of {names}, or no target")
    if reason := NOT_OF.get((target.kind, mode)):
        raise ConfigError("mode", mode.name, f"is not one of target={target.kind.name.lower()}", reason)


def show_rendered(runs: Sequence[Sequence[Stage]]) -> None:
    """Prints what a job is handed over as, objects in YAML or a script, and starts nothing.

    Raises:
        ConfigError: a setting has no meaning there; with the key, the value and the remedy.
    """
    _, cfg = runs[0][0]
    if cfg.target.kind is TargetKind.SLURM:
        from sdft_ray.targets.jobs import name_of
        from sdft_ray.targets.slurm.script import batch_script

        sys.stdout.write(batch_script(cfg, name_of(runs)))
        return
    if cfg.target.kind is TargetKind.SSH:
        from sdft_ray.targets.jobs import name_of
        from sdft_ray.targets.ssh.script import host_script

        sys.stdout.write(host_script(cfg, name_of(runs)))
        return
    from sdft_ray.targets.kuberay.objects import render, written

    sys.stdout.write(written(render(runs)))


def check_rendered(runs: Sequence[Sequence[Stage]]) -> None:
    """Prints what is wrong with a job before it is handed over; starts nothing.

    Raises:
        ConfigError: a setting has no meaning there; with the key, the value and the remedy.
        SdftError: a rule is broken, or target.crds cannot be read.
    """
    _, cfg = runs[0][0]
    findings = _check_hosts(runs) if cfg.target.kind is TargetKind.SSH else _check_objects(runs)
    for finding in findings:
        print(f"broken       {finding}")
    if findings:
        raise SdftError(f"{len(findings)} rules are broken; a cluster would refuse this job, or never run it.")
    print("no rule is broken")


def _check_hosts(runs: Sequence[Sequence[Stage]]) -> Sequence[object]:
    """Prints what was seen of the hosts, and returns what is wrong with them."""
    from sdft_ray.targets.ssh.check import check_hosts

    looked = check_hosts(runs)
    for sentence in looked.reached:
        print(f"reached      {sentence}")
    for sentence in looked.not_checked:
        print(f"not checked  {sentence}")
    return looked.findings


def _check_objects(runs: Sequence[Sequence[Stage]]) -> Sequence[object]:
    """Prints what was looked at by rules that need no cluster, and by one that answers; returns what is wrong."""
    from sdft_ray.targets.kuberay.check import check_objects, read_schema
    from sdft_ray.targets.kuberay.dry_run import dry_run
    from sdft_ray.targets.kuberay.kubectl import Kubectl
    from sdft_ray.targets.kuberay.objects import render

    _, cfg = runs[0][0]
    objects = render(runs)
    by_rules = check_objects(objects, cfg, read_schema(cfg.target))
    by_server = dry_run(objects, Kubectl(cfg.target.namespace, cfg.target.kube_context))
    for thing in objects:
        print(f"rendered     {thing['kind']} {thing['metadata']['namespace']}/{thing['metadata']['name']}")
    for accepted in by_server.accepted:
        print(f"accepted     {accepted}")
    for sentence in (*by_rules.not_checked, *by_server.not_checked):
        print(f"not checked  {sentence}")
    return (*by_rules.findings, *by_server.findings)


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
