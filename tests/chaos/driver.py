"""`python -m tests.chaos.driver LEG EVENTS RUN_DIR SETTINGS...`: the command, with a saboteur in its process.

LEG is a JSON list of strikes, EVENTS the file that says what has become of them.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from sdft_ray.cluster import job, topology
from sdft_ray.cluster.topology import Roles
from sdft_ray.faults import Fault
from sdft_ray.launch import main
from sdft_ray.tracking.faults import FaultLog
from tests.chaos.saboteur import Saboteur
from tests.chaos.schedule import Strike

TASKS = set()


def let_in(saboteur: Saboteur) -> None:
    """Has it work beside the run, and hear what the run says of its faults."""
    tell = FaultLog.tell

    def tell_both(self: FaultLog, fault: Fault) -> None:
        saboteur.hear(fault)
        tell(self, fault)

    async def start_roles(*arguments: Any) -> Roles:
        roles = await topology.start_roles(*arguments)
        task = asyncio.create_task(saboteur.work(roles))
        TASKS.add(task)
        task.add_done_callback(lambda done: None if done.cancelled() else done.exception() and print(done.exception()))
        return roles

    FaultLog.tell = tell_both  # type: ignore[method-assign]
    job.start_roles = start_roles  # type: ignore[assignment]


if __name__ == "__main__":
    strikes = [Strike(**strike) for strike in json.loads(sys.argv[1])]
    let_in(Saboteur(strikes, Path(sys.argv[2]), Path(sys.argv[3])))
    sys.argv[1:] = sys.argv[4:]
    main()
