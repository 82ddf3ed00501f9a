"""From a cluster file to Ray placement groups: one bundle a worker."""

import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sdft_ray.cluster.environment import actor_environment
from sdft_ray.config import ClusterConfig, RolePlacement
from sdft_ray.config.cluster import ROLE_LABEL
from sdft_ray.errors import ClusterError

RESERVATION_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """The reserved places of one role."""

    role: str
    placement: RolePlacement
    group: PlacementGroup

    def actor_options(self, rank: int) -> dict[str, Any]:
        """What `ActorClass.options` takes to put worker `rank` in its place, with its environment."""
        return {
            "num_cpus": self.placement.cpus_per_worker,
            "num_gpus": self.placement.gpus_per_worker,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=rank),
            "runtime_env": {"env_vars": actor_environment(self.role, self.placement)},
            "max_restarts": 0,
        }

    def release(self) -> None:
        """Gives the places back."""
        remove_placement_group(self.group)


def reserve(cluster: ClusterConfig, roles: list[str]) -> dict[str, Reservation]:
    """Reserves the places of all `roles`, or none.

    Learner ranks are packed, since they exchange gradients all the time; the workers of other roles are spread. The
    learner has its places before the others ask for theirs, or they would be spread over the nodes it could fill.

    Raises:
        ClusterError: the places are not there after a minute, though the totals are: other jobs hold them, or no
            single node is large enough for one worker.
    """
    reservations: dict[str, Reservation] = {}
    deadline = time.monotonic() + RESERVATION_TIMEOUT_S
    for role in sorted(roles, key=lambda role: role != "learner"):
        placement = cluster.placements()[role]
        bundle = {"CPU": float(placement.cpus_per_worker)}
        if placement.gpus_per_worker:
            bundle["GPU"] = float(placement.gpus_per_worker)
        group = placement_group(
            [dict(bundle) for _ in range(placement.num_workers)],
            strategy="PACK" if role == "learner" else "SPREAD",
            name=f"sdft_ray-{role}",
            bundle_label_selector=_label_selectors(cluster, role),
        )
        reservations[role] = Reservation(role, placement, group)
        if role == "learner":
            _wait(cluster, reservations, deadline)
    _wait(cluster, reservations, deadline)
    return reservations


def _label_selectors(cluster: ClusterConfig, role: str) -> list[dict[str, str]] | None:
    """For each bundle, the labels of the nodes it may go to; None where any node will do."""
    if not cluster.role_labels:
        return None
    return [{ROLE_LABEL: cluster.label_of(role)} for _ in range(cluster.placements()[role].num_workers)]


def _wait(cluster: ClusterConfig, reservations: dict[str, Reservation], deadline: float) -> None:
    """Returns once all reservations have their places; else releases them at the deadline and raises ClusterError."""
    waiting = [reservation.group.ready() for reservation in reservations.values()]
    remaining_s = max(0.0, deadline - time.monotonic())
    _, missing = ray.wait(waiting, num_returns=len(waiting), timeout=remaining_s)
    if not missing:
        return
    lacking = [role for role, reference in zip(reservations, waiting, strict=True) if reference in missing]
    for reservation in reservations.values():
        reservation.release()
    raise ClusterError(
        f"cluster={cluster.name}: no room for the {', '.join(lacking)} workers within "
        f"{RESERVATION_TIMEOUT_S:.0f} s, though the cluster is large enough in all "
        f"({ray.available_resources()} are free); end other jobs, or "
        "lower gpus_per_worker or cpus_per_worker below what one node has."
    )
