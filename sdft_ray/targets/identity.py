"""What makes two jobs the same one: the settings of all their runs, and those of the target that shape the job."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml
from omegaconf import OmegaConf

from sdft_ray.config import Mode, TargetConfig
from sdft_ray.config.saved import flat_settings
from sdft_ray.errors import ConfigError
from sdft_ray.targets.run_file import Run, written_runs

RUN_FILE, TARGET_FILE = "run.yaml", "target.yaml"
# Settings of the command that watches a job, or of how the job is reached.
OF_THE_COMMAND = ("watch", "patience_s", "crds", "kube_context", "address")
NUM_SHOWN = 8  # settings that a message lists

Files = Mapping[str, str]  # by name: RUN_FILE and TARGET_FILE


def job_files(runs: Sequence[Run]) -> dict[str, str]:
    """The files of a job: its runs, which it reads, and the target's settings, which tell one job from another."""
    _, cfg = runs[0][0]
    defaults = TargetConfig()
    target = replace(cfg.target, **{key: getattr(defaults, key) for key in OF_THE_COMMAND})
    plain: Any = OmegaConf.to_container(OmegaConf.structured(target), enum_to_str=True)
    return {
        RUN_FILE: written_runs(runs, Mode[cfg.target.job]),
        TARGET_FILE: yaml.safe_dump({key: plain[key] for key in plain if key not in OF_THE_COMMAND}, sort_keys=False),
    }


def fingerprint(files: Files) -> str:
    """Ten characters that are others for every other job."""
    text = "\0".join(files.get(name, "") for name in (RUN_FILE, TARGET_FILE))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def check_same(name: str, mine: Files, theirs: Files, remedy: str) -> None:
    """Refuses a job that differs from the one that has its name.

    Args:
        name: the job's.
        mine: the files of the job to be submitted.
        theirs: those of the job that is there.
        remedy: how the name is freed.

    Raises:
        ConfigError: names the settings that differ, with both values.
    """
    if fingerprint(mine) == fingerprint(theirs):
        return
    here, there = _settings(mine), _settings(theirs)
    keys = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    shown = ", ".join(f"{key}={here.get(key)} (there {there.get(key)})" for key in keys[:NUM_SHOWN])
    more = f" and {len(keys) - NUM_SHOWN} more" if len(keys) > NUM_SHOWN else ""
    raise ConfigError("name", name, f"is taken by a job with other settings: {shown}{more}", remedy)


def _settings(files: Files) -> dict[str, Any]:
    """All settings of a job by their full keys, behind the number of the run where there are several."""
    runs: Any = yaml.safe_load(files.get(RUN_FILE, "")) or []
    flat: dict[str, Any] = flat_settings({"target": yaml.safe_load(files.get(TARGET_FILE, "")) or {}})
    several = sum(len(run) for run in runs) > 1
    for index, run in enumerate(runs):
        for stage in run:
            prefix = f"run {index} {stage['stage']} ".replace("  ", " ") if several else ""
            own = {key: value for key, value in stage["settings"].items() if key != "target"}  # which is HERE, there
            flat |= {f"{prefix}{key}": value for key, value in flat_settings(own).items()}
    return flat
