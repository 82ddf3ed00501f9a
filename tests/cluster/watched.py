"""What is seen of a run from outside while it goes on, by a thread beside the test that waits for it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.job_submission import JobSubmissionClient
from ray.util.state import list_actors

from sdft_ray.tracking.run_status import STATUS_FILE
from sdft_ray.watch.frame import Look
from sdft_ray.watch.nodes import processes_of, stacks_on_nodes
from sdft_ray.watch.sources import ClusterSource, FolderSource
from sdft_ray.watch.stacks import Stacks

STARTS_WITHIN_S = 400.0  # as long as a test waits for a command


@dataclass(frozen=True)
class Seen:
    look: Look
    look_over_ray: Look
    stacks: list[Stacks]
    missing: list[str]
    actors: dict[str, int]  # process ids by name
    metadata: list[dict[str, str]]  # of jobs


def see(folder: Path, dashboard: str) -> Seen:
    """Looks at a run as soon as it tells where it is."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not (folder / STATUS_FILE).exists():
        assert time.monotonic() < deadline, f"{folder} has no status"
        time.sleep(0.1)
    source = FolderSource(folder, folder.name)
    stacks, missing = stacks_on_nodes(processes_of(source))
    actors = {actor.name: actor.pid for actor in list_actors(filters=[("state", "=", "ALIVE")], limit=1000)}
    look = source.look()
    over_ray = ClusterSource(ray.get_runtime_context().gcs_address, folder.name).look()
    jobs: list[Any] = JobSubmissionClient(f"http://{dashboard}").list_jobs()
    return Seen(look, over_ray, stacks, missing, actors, [job.metadata or {} for job in jobs])
