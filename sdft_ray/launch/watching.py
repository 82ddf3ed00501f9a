"""mode=top and mode=stacks: a job while it runs, found by its run folder or on the Ray cluster at RAY_ADDRESS."""

import time

from sdft_ray.config import TargetConfig
from sdft_ray.errors import ConfigError


def show_top(name: str, runs_dir: str, target: TargetConfig) -> int:
    """Shows a run live; see `watch/top.py`.

    Raises:
        ConfigError: there is no such run.
        ClusterError: a Ray cluster does not answer, or has no such run.
        DataError: a file of the run is broken.
    """
    from sdft_ray.watch.sources import find_run
    from sdft_ray.watch.top import watch

    watch(find_run(name, runs_dir))
    return 0


def show_stacks(name: str, runs_dir: str, target: TargetConfig) -> int:
    """Prints the stacks of all processes of a run, and writes them to logs/stacks-TIME.txt where its folder is seen.

    Raises:
        ConfigError: there is no such run, or its folder cannot be written.
        ClusterError: it has ended, no process may be traced, or its Ray cluster does not answer.
    """
    from rich.console import Console

    from sdft_ray.watch.nodes import stacks_of
    from sdft_ray.watch.sources import FolderSource, find_run
    from sdft_ray.watch.stacks_page import stacks_table, stacks_text

    run = find_run(name, runs_dir)
    found, missing = stacks_of(run)
    text = stacks_text(run.name, time.strftime("%Y-%m-%d %H:%M:%S"), found)
    print(text)
    Console(highlight=False).print(stacks_table(found))
    for sentence in missing:
        print(f"not asked  {sentence}")
    if isinstance(run, FolderSource):
        path = run.folder / "logs" / time.strftime("stacks-%Y%m%d-%H%M%S.txt")
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            problem = f"{path} cannot be written ({error.strerror})"
            raise ConfigError("runs_dir", runs_dir, problem, "take the stacks from above") from error
        print(f"written    {path}")
    return 0
