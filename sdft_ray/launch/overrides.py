"""What was typed behind the command, read before Hydra composes it: Hydra's own messages advise what does not work.

Of an unknown key Hydra says that a plus sign would add it. Of a bracket it says which token its grammar expected.
"""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from sdft_ray.config import RunConfig
from sdft_ray.config.keys import check_key, nearest_key
from sdft_ray.config.written import flat_settings
from sdft_ray.errors import ConfigError, SdftError

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
        key = override.key_or_group
        is_hydras = override.package is not None or key.partition(".")[0] == "hydra"
        if is_hydras or (CONF / key).is_dir() and not isinstance(override.value(), dict):
            continue
        value = override.value()
        given = flat_settings({key: value}) if isinstance(value, dict) else {key: text.partition("=")[2]}
        for own_key, own_value in given.items():
            check_key(own_key, own_value, RunConfig)


def readable(error: HydraException) -> SdftError:
    """What Hydra found wrong while composing, as one line; for an unknown key in a file, with the nearest there is."""
    cause = error.__cause__ or error.__context__
    text = " ".join(str(error).split())
    if isinstance(cause, ConfigKeyError) and cause.full_key:
        place = text.partition(":")[0]
        nearest = nearest_key(cause.full_key, RunConfig)
        return SdftError(f"{place}: {cause.full_key} is no setting; the nearest is {nearest}.")
    if isinstance(cause, OmegaConfBaseException) and str(cause).split("\n")[0] not in text:
        text += ": " + str(cause).split("\n")[0]
    return SdftError(text)


def _parsed(text: str) -> Override:
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except HydraException as error:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(text, "", "is no setting", "write KEY=VALUE") from error
        found = "".join(sign for sign in GRAMMAR if sign in value)
        if not found or "'" in value:
            problem = f"Hydra cannot read it ({str(error).splitlines()[0]})"
            raise ConfigError(key, value, problem, "write KEY=VALUE, with text in quotation marks") from error
        problem = f"{' '.join(found)} in a value that is no list or mapping has to be quoted"
        raise ConfigError(key, value, problem, f"write \"{key}='{value}'\", with both quotation marks") from error
    return override
