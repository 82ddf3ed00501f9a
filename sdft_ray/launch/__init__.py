"""The command: `python -m sdft_ray.launch +cluster=local`. Composes the settings, runs the job, ends with one error.

With mode=plan it prints what the run would take, with mode=show what the model would read of some rows, and starts
nothing; with mode=report it makes a page of run folders.
mode=evaluate measures a model as it is, and mode=check_teacher asks it whether the demonstrations are of use to it;
neither trains anything. With `seeds` it does one run after the other, and says what they came to together.

Hydra and its DictConfig stay in this folder; everybody else gets checked dataclasses.
"""

from sdft_ray.launch.command import main, run
from sdft_ray.launch.composing import Stage, compose_config, compose_runs, report_config, typed_config
from sdft_ray.launch.overrides import CONF

__all__ = ["CONF", "Stage", "compose_config", "compose_runs", "main", "report_config", "run", "typed_config"]
