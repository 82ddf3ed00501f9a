"""Settings as a run folder holds them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from sdft_ray.config.run import RunConfig
from sdft_ray.errors import CheckpointError, first_line

CONFIG_FILE = "config.yaml"
MOVE_IT = "move it out of the folder and start again: resuming needs it only to tell what has changed"
ABOUT_THE_COMMAND = ("resume",)  # how a run is started, which says nothing about the run


def plain_settings(cfg: RunConfig) -> dict[str, Any]:
    """Checked settings as plain containers, with members of enums by their names."""
    settings: Any = OmegaConf.to_container(OmegaConf.structured(cfg), enum_to_str=True)
    return {str(key): value for key, value in settings.items()}


def write_settings(
    run_dir: Path, settings: Mapping[str, Any], make_way: Callable[[Path], None] = lambda path: None
) -> None:
    """Writes the settings of a run, as plain containers, into its folder: whole or not at all.

    Args:
        run_dir: the folder.
        settings: the settings.
        make_way: moves a file that is there out of the way, once the new one has found room.
    """
    scratch = run_dir / f"{CONFIG_FILE}.new"
    scratch.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    make_way(run_dir / CONFIG_FILE)
    scratch.replace(run_dir / CONFIG_FILE)


def read_settings(run_dir: Path) -> dict[str, Any]:
    """The settings that the folder of a run holds.

    Raises:
        CheckpointError: they are no settings.
    """
    path = run_dir / CONFIG_FILE
    try:
        settings = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise CheckpointError(f"{path} is damaged ({first_line(error)}); {MOVE_IT}.") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} is damaged (it holds no settings); {MOVE_IT}.")
    return settings


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flat_settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def changed_settings(run_dir: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, by full key, that are others than those the folder holds, each with the folder's value.

    A folder without settings has none that could have changed. A key that it lacks has the value None, and so a setting
    that is gone now is one that has changed.
    """
    path = run_dir / CONFIG_FILE
    if not path.is_file():
        return {}
    kept, now = flat_settings(read_settings(run_dir)), flat_settings(settings)
    keys = [key for key in {**now, **kept} if key not in ABOUT_THE_COMMAND]
    return {key: kept.get(key) for key in keys if now.get(key) != kept.get(key)}
