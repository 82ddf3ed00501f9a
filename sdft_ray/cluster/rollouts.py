"""Rollout workers alone, for what only asks the model and trains nothing."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager

from sdft_ray.cluster.actors import make_rollout_workers
from sdft_ray.cluster.placement import reserve
from sdft_ray.cluster.run_inputs import ModelInputs
from sdft_ray.cluster.session import num_alive_nodes
from sdft_ray.config import RunConfig
from sdft_ray.errors import WeightVersionError
from sdft_ray.records import Publication
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.weights.channel import WeightChannel, WeightKind
from sdft_ray.weights.plan import plan_weights
from sdft_ray.workers import WorkerGroup, close_all

ROLE = "rollout"


@asynccontextmanager
async def rollout_workers_only(
    cfg: RunConfig, inputs: ModelInputs, logs: str, phase: Callable[[str], AbstractContextManager[None]]
) -> AsyncIterator[RolloutPool]:
    """Rollout workers with the model folder's weights and no other role; ends them when the block ends.

    Args:
        cfg: the cluster's placement and the rollout settings are used.
        inputs: the model.
        logs: folder of their log files.
        phase: tells the user what is going on.
    """

    async def publish(kind: WeightKind, version: int) -> Publication:
        raise WeightVersionError(f"there is no learner to publish {kind.value} weights {version}")

    reservation = reserve(cfg.cluster, [ROLE])[ROLE]
    weights = plan_weights(cfg, num_alive_nodes())
    group = WorkerGroup(ROLE, make_rollout_workers(cfg, inputs, weights, reservation, logs), logs)
    try:
        with phase(f"starting {group.size} rollout worker{'s' if group.size > 1 else ''}"):
            await group.on_all(lambda actor: actor.ready.remote())
        yield RolloutPool(group, WeightChannel(publish, cfg.weights.timeout_s))
    finally:
        close_all([group])
        reservation.release()
