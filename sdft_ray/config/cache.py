"""The folder of what can be made again: models and data both keep some there, and neither imports the other."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$SDFT_RAY_CACHE, or sdft_ray in the user's cache folder: $XDG_CACHE_HOME, or ~/.cache."""
    own, users = os.environ.get("SDFT_RAY_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(own) if own else Path(users) / "sdft_ray").expanduser().absolute()
