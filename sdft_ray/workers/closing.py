"""How workers end: those of every role at once, apart from `group.py`, which knows one role."""

from collections.abc import Sequence

import ray

from sdft_ray.workers.group import WorkerGroup

CLOSING_TIMEOUT_S = 10.0  # a scheduler kills 30 s after it has asked


def close_all(groups: Sequence[WorkerGroup]) -> None:
    """Ends every worker of every group at once, also one that no longer answers, and those on their way."""
    actors = [actor for group in groups for actor in group.abandon()]
    closing = [actor.close.remote() for actor in actors]
    # What does not close in time is dead, or stuck in a collective with a dead neighbour; the error that led here is
    # already on its way to the user, so nobody asks why.
    ray.wait(closing, num_returns=len(closing), timeout=CLOSING_TIMEOUT_S)
    for actor in actors:
        ray.kill(actor)
