"""Rollout workers alone, for what only asks the model and trains nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager

from sdft_ray.cluster.actors import rollout_maker
from sdft_ray.cluster.placement import end_workers, reserve
from sdft_ray.cluster.recovery import Tell, replace_lost, start_workers
from sdft_ray.cluster.run_inputs import ModelInputs
from sdft_ray.cluster.session import num_alive_nodes
from sdft_ray.config import RunConfig
from sdft_ray.errors import WeightVersionError
from sdft_ray.records import Publication
from sdft_ray.rollout.ordered_pool import make_pool
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.weights.channel import WeightChannel, WeightKind
from sdft_ray.weights.plan import plan_weights
from sdft_ray.workers.group import WorkerGroup
from sdft_ray.workers.recovery import RestartBudget

ROLE = "rollout"


@asynccontextmanager
async def rollout_workers_only(
    cfg: RunConfig, inputs: ModelInputs, logs: str, phase: Callable[[str], AbstractContextManager[None]], tell: Tell
) -> AsyncIterator[RolloutPool]:
    """Rollout workers with the model folder's weights and no other role; ends them when the block ends.

    Args:
        cfg: the cluster's placement and the rollout settings are used.
        inputs: the model.
        logs: folder of their log files.
        phase: tells the user what is going on.
        tell: is told of workers that are lost once all have started.
    """

    async def publish(kind: WeightKind, version: int) -> Publication:
        raise WeightVersionError(f"there is no learner to publish {kind.value} weights {version}")

    reservation = reserve(cfg.cluster, [ROLE])[ROLE]
    weights = plan_weights(cfg, num_alive_nodes())
    make = rollout_maker(cfg, inputs, weights, reservation, logs)
    actors = [make(rank) for rank in range(reservation.placement.num_workers)]
    group = WorkerGroup(ROLE, actors, logs, faults=cfg.faults)
    try:
        with phase(f"starting {group.size} rollout worker{'s' if group.size > 1 else ''}"):
            await start_workers(group)
        pool = make_pool(group, WeightChannel(publish, cfg.weights.timeout_s), ordered=cfg.deterministic)
        budget = RestartBudget(cfg.faults.max_restarts)
        replace_lost(group, make, pool, asyncio.Lock(), lambda: 0, budget, tell)  # none but the folder's weights
        yield pool
    finally:
        end_workers([group], [reservation])
