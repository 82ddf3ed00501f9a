"""What was typed behind the command, read before Hydra composes it: Hydra's own messages advise what does not work.

Of an unknown key Hydra says that a plus sign would add it. Of a bracket it says which token its grammar expected.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from sdft_ray.config import RunConfig
from sdft_ray.config.keys import check_key, nearest_key
from sdft_ray.config.saved import flat_settings
from sdft_ray.errors import ConfigError, SdftError
from sdft_ray.launch.values import check_text, knows, meant_of, wrong_value

PACKAGE = Path(__file__).resolve().parents[1]
# Installed, the settings lie inside the package; in a clone beside it.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
GRAMMAR = "[]{}():,="  # means something to Hydra in a value that is not quoted


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuses what cannot be read as KEY=VALUE, and keys that are no setting, with and without a plus sign.

    Raises:
        ConfigError: with the quotation marks that are missing, or the nearest key there is.
    """
    for text in overrides:
        override = _parsed(text)
        key, value = override.key_or_group, override.value()
        if override.package is not None or key.partition(".")[0] == "hydra":
            continue
        if (CONF / key).is_dir() and not isinstance(value, dict):
            _check_choice(override)
            continue
        check_text(key, value)
        given = flat_settings({key: value}) if isinstance(value, dict) else {key: text.partition("=")[2]}
        for own_key, own_value in given.items():
            check_key(own_key, own_value, RunConfig)


def readable(error: HydraException) -> SdftError:
    """What Hydra found wrong while composing, as one line; for an unknown key in a file, with the nearest there is."""
    cause = error.__cause__ or error.__context__
    text = " ".join(str(error).split())
    if typed := re.fullmatch(r"Error merging override \+*([\w.]+)=(.*)", text):
        key, value = typed.groups()
        if knows(key) and not value.startswith("["):
            return wrong_value(key, value)
        text = f"{key}={value}"
    if added := re.match(r"Could not override '\S+'\. To append to your config use \+([\w.]+)=(.*?)(: [^}]*)?$", text):
        key, value = added.groups()[:2]
        return ConfigError(key, value, "is a new entry of a mapping", f"write it with a plus sign: '+{key}={value}'")
    if ambiguous := re.match(r"Ambiguous value for argument '(.*?)=(.*?)' 1\. ", text):
        key, value = ambiguous.groups()
        remedy = f"write a text as \"{key}='{value}'\" and a list as '{key}=[{value}]', with all quotation marks"
        return ConfigError(key, value, "commas separate the runs of a sweep, which --multirun starts", remedy)
    if twice := re.match(r"Multiple values for (\w+)\. To override a value use 'override \w+: (.*?)'", text):
        group, name = twice.groups()
        return ConfigError(f"+{group}", name, f"another {group} is chosen as well", "name one alone")
    if missing := re.search(r"Could not find '(\w+)/(.*?)' Available options in '.*?': (.*?) Config search path", text):
        group, name, options = missing.groups()
        names = options.split()
        remedy = f"{meant_of(name, names)}there are {', '.join(names)}"
        return ConfigError(group, name, f"there is no such file in conf/{group}", remedy)
    if isinstance(cause, ConfigKeyError) and cause.full_key:
        place = text.partition(":")[0]
        nearest = nearest_key(cause.full_key, RunConfig) or "none; see docs/settings.md"
        return SdftError(f"{place}: {cause.full_key} is no setting; the nearest is {nearest}.")
    if isinstance(cause, OmegaConfBaseException) and str(cause).split("\n")[0] not in text:
        text += ": " + str(cause).split("\n")[0]
    return SdftError(text)


def _check_choice(override: Override) -> None:
    """Refuses a choice of a file of settings whose plus sign is missing or too many.

    Raises:
        ConfigError: writes it right.
    """
    group, name = override.key_or_group, override.value()
    has_default = group in {next(iter(entry)) for entry in _defaults() if isinstance(entry, dict)}
    if override.is_add() and has_default:
        problem = "another is chosen already"
        raise ConfigError(f"+{group}", name, problem, f"write {group}={name}, without the plus sign, to replace it")
    if not override.is_add() and not has_default:
        problem = "none is chosen that this could replace"
        raise ConfigError(group, name, problem, f"write +{group}={name}, with a plus sign, to add it")


def _defaults() -> list[Any]:
    """The files of settings that every run begins with, as conf/config.yaml has them."""
    composed: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    defaults: list[Any] = composed["defaults"]
    return defaults


def _parsed(text: str) -> Override:
    if not text.lstrip("+~").partition("=")[0]:
        raise ConfigError(text, "", "is no setting", "write KEY=VALUE")
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except HydraException as error:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(text, "", "is no setting", "write KEY=VALUE") from error
        if value.startswith("[") and value.endswith("]"):  # stages with settings of their own
            parts = ", ".join(f"'{part.strip()}'" for part in value[1:-1].split(","))
            problem = "an item of a list that holds a space or = has to be quoted"
            raise ConfigError(key, value, problem, f'write "{key}=[{parts}]", with both quotation marks') from error
        found = "".join(sign for sign in GRAMMAR if sign in value)
        if not found or "'" in value:
            problem = f"Hydra cannot read it ({str(error).splitlines()[0]})"
            raise ConfigError(key, value, problem, "write KEY=VALUE, with text in quotation marks") from error
        problem = f"{' '.join(found)} in a value that is no list or mapping has to be quoted"
        raise ConfigError(key, value, problem, f"write \"{key}='{value}'\", with both quotation marks") from error
    return override
