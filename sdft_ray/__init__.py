"""Self-Distillation Fine-Tuning (arXiv 2601.19897) as a distributed job. Start reading at `loop.py`.

The names below are imported when they are first used: every worker imports this package, and none needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdft_ray.api import RunResult, check_teacher, evaluate, show, train
    from sdft_ray.config import RunConfig
    from sdft_ray.launch.composing import compose_config

__version__ = "0.1.0"
__all__ = ["RunConfig", "RunResult", "check_teacher", "compose_config", "evaluate", "show", "train"]

_HOMES = {
    "RunConfig": "sdft_ray.config",
    "RunResult": "sdft_ray.api",
    "check_teacher": "sdft_ray.api",
    "compose_config": "sdft_ray.launch.composing",
    "evaluate": "sdft_ray.api",
    "show": "sdft_ray.api",
    "train": "sdft_ray.api",
}


def __getattr__(name: str) -> Any:
    """The public name, from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
