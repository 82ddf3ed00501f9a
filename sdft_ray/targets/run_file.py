"""Checked settings of runs as one file, which another machine runs without composing anything again.

Presets, command line and working folder of the machine that wrote it no longer matter.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdft_ray.config import Mode, RunConfig, TargetConfig
from sdft_ray.config.keys import check_keys
from sdft_ray.config.saved import plain_settings
from sdft_ray.errors import ConfigError, SdftError

OPTION = "--run-file="  # of the command
Run = Sequence[tuple[str, RunConfig]]  # name and settings of every stage


def written_runs(runs: Sequence[Run], mode: Mode) -> str:
    """The file of these runs, to be done in `mode` where it is read."""
    return yaml.safe_dump(
        [
            [
                {"stage": stage, "settings": plain_settings(replace(cfg, mode=mode, target=TargetConfig()))}
                for stage, cfg in run
            ]
            for run in runs
        ],
        sort_keys=False,
    )


def read_runs(path: Path) -> list[list[tuple[str, RunConfig]]]:
    """The runs of a file that `written_runs` made.

    Raises:
        ConfigError: the file is not there, or holds something else.
        SdftError: one of its settings cannot be used; with the key.
    """
    key = OPTION.rstrip("=")
    remedy = "give the file that mode=render has put into the ConfigMap"
    try:
        runs = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [[(str(stage["stage"]), _settings(stage["settings"])) for stage in run] for run in runs]
    except OSError as error:
        raise ConfigError(key, path, f"cannot be read ({error.strerror})", remedy) from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise ConfigError(key, path, "is no file of runs", remedy) from error


def _settings(plain: dict[str, Any]) -> RunConfig:
    check_keys(plain, RunConfig, "")
    try:
        cfg = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), plain))
    except OmegaConfBaseException as error:
        raise SdftError(" ".join(str(error).split())) from error
    assert isinstance(cfg, RunConfig)
    return cfg
