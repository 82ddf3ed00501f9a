"""How a job tells where it is while it runs: status.json in its folder, and the whole view on its Ray cluster.

The view goes to the key-value store of Ray's head node, under the run's name, so that mode=top needs no folder, no
process on the cluster and no port but the head node's. The last one stays there when the job has ended: some kB, which
the next job of the name replaces.
"""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

import ray
from ray.exceptions import RayError
from ray.experimental.internal_kv import internal_kv_get_gcs_client

from sdft_ray.cluster.environment import run_mark
from sdft_ray.cluster.run_folder import RunFolder
from sdft_ray.cluster.stages import Stages
from sdft_ray.cluster.topology import Roles
from sdft_ray.errors import first_line
from sdft_ray.outcome import first_cause
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.tracking.earlier import move_to_earlier
from sdft_ray.tracking.run_status import STATUS_FILE, RunStatus, WorkerPlace, write_status
from sdft_ray.tracking.run_view import NAMESPACE, packed, view_with

EVERY_S = 2.0
PUT_TIMEOUT_S = 5.0


class StatusWriter:
    """Writes the status until its block ends; a context manager inside that of the Ray session."""

    def __init__(self, folder: RunFolder, stages: Stages, going_on: Callable[[], tuple[str, ...]]):
        """Writes nothing yet.

        Args:
            folder: of the run.
            stages: of the run.
            going_on: tells what the terminal shows.
        """
        self._folder = folder.path
        self._stages = stages
        self._going_on = going_on
        self._started_at = time.time()
        self._status: Callable[[], RunStatus] | None = None
        self._task: asyncio.Task[None] | None = None
        self._telling = threading.Lock()
        self._has_ended = False

    def begin(self, roles: Roles) -> None:
        """Writes from now on; called once the folder is this run's."""
        move_to_earlier(self._folder / STATUS_FILE)
        self._status = lambda: self._look(roles)
        self._task = asyncio.create_task(self._write_on(self._status))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Writes a last time, how the run has ended."""
        if self._task is None or self._status is None:
            return
        self._task.cancel()
        self._tell(replace(self._status(), ended=_in_words(error), going_on=()))

    async def _write_on(self, status: Callable[[], RunStatus]) -> None:
        while True:
            await asyncio.to_thread(self._tell, status())  # no step waits for a disk or for the head node
            await asyncio.sleep(EVERY_S)

    def _tell(self, status: RunStatus) -> None:
        with self._telling:
            if self._has_ended:  # a thread that was late
                return
            self._has_ended = bool(status.ended)
            try:
                write_status(self._folder, status)
                view = view_with(status, self._folder)
                client = internal_kv_get_gcs_client()
                client.internal_kv_put(view.name.encode(), packed(view), True, NAMESPACE, PUT_TIMEOUT_S)
            except (OSError, RayError):  # a full disk, or the head node is away: the run itself complains of both
                pass

    def _look(self, roles: Roles) -> RunStatus:
        cfg, inputs = self._stages.shared
        context = ray.get_runtime_context()
        return RunStatus(
            mark=run_mark(self._folder),
            method=cfg.method.name,
            model=cfg.model.path,
            cluster=cfg.cluster.name,
            address=context.gcs_address,
            host=socket.gethostname(),
            process_id=os.getpid(),
            started_at=self._started_at,
            written_at=time.time(),
            num_steps=inputs.num_steps,
            stages=tuple((stage.name, stage.last_step) for stage in self._stages),
            step=roles.learner.weight_version,
            going_on=self._going_on(),
            versions=versions_of(roles),
            workers=tuple(
                WorkerPlace(
                    role=role,
                    rank=seat.rank,
                    node=seat.node,
                    serves=seat.loss is None,
                    num_open=seat.num_open,
                )
                for role, group in roles.groups.items()
                for seat in group.members.seats
            ),
        )


def versions_of(roles: Roles) -> dict[str, int]:
    """The weight version that each role holds; none of a role whose weights never change."""
    held = {"learner": roles.learner.weight_version}
    for role, pool in (("rollout", roles.rollouts), ("teacher", roles.teacher)):
        if isinstance(pool, RolloutPool | TeacherPool) and pool.weight_version is not None:
            held[role] = pool.weight_version
    return held


def _in_words(error: BaseException | None) -> str:
    cause = first_cause(error)
    if cause is None:
        return "finished"
    if isinstance(cause, asyncio.CancelledError):
        return "terminated"
    return "interrupted" if isinstance(cause, KeyboardInterrupt) else f"failed: {first_line(cause)}"
