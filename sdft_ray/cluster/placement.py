"""From a cluster file to Ray placement groups: one bundle a worker."""

import time
from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sdft_ray.cluster.environment import actor_environment
from sdft_ray.cluster.session import dead_processes
from sdft_ray.config import ClusterConfig, RolePlacement
from sdft_ray.config.cluster import ROLE_LABEL
from sdft_ray.errors import ClusterError
from sdft_ray.workers.closing import close_all
from sdft_ray.workers.group import WorkerGroup

RESERVATION_TIMEOUT_S = 60.0


class Reservation:
    """The reserved places of one role: a placement group with a bundle a worker."""

    def __init__(self, role: str, placement: RolePlacement, groups: list[PlacementGroup]):
        """`groups` are asked for, and may still be waited for."""
        self.role = role
        self.placement = placement
        self.groups = groups

    def actor_options(self, rank: int) -> dict[str, Any]:
        """What `ActorClass.options` takes to put worker `rank` in its place, with its environment."""
        group, bundle = self._bundle(rank)
        return {
            "num_cpus": self.placement.cpus_per_worker,
            "num_gpus": self.placement.gpus_per_worker,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
            "runtime_env": {"env_vars": actor_environment(self.role, self.placement)},
            "max_restarts": 0,
        }

    def release(self) -> None:
        """Gives the places back."""
        for group in self.groups:
            remove_placement_group(group)

    def _bundle(self, rank: int) -> tuple[PlacementGroup, int]:
        return self.groups[0], rank


class ElasticReservation(Reservation):
    """As `Reservation`, with a placement group a worker: of workers that come and go each place is given back alone."""

    def __init__(self, role: str, placement: RolePlacement, ask: Callable[[], PlacementGroup]):
        """Has the places of the first workers asked for; `ask` asks for one."""
        super().__init__(role, placement, [ask() for _ in range(placement.num_workers)])
        self._ask = ask

    def ask_for_most(self) -> None:
        """Asks for the places of all workers that may join, to be there when there is room."""
        self.groups += [self._ask() for _ in range(self.placement.most_workers - len(self.groups))]

    def node_ids(self) -> dict[int, str]:
        """The id of the node of each place by rank; "" where there is none yet."""
        tables = [placement_group_table(group) for group in self.groups]
        return {rank: table["bundles_to_node_id"][0] for rank, table in enumerate(tables)}

    def renew(self, rank: int) -> None:
        """Gives a place back and asks for another."""
        remove_placement_group(self.groups[rank])
        self.groups[rank] = self._ask()

    def _bundle(self, rank: int) -> tuple[PlacementGroup, int]:
        return self.groups[rank], 0


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
        reservations[role] = _ask(cluster, role)
        if role == "learner":
            _wait(cluster, reservations, deadline)
    _wait(cluster, reservations, deadline)
    return reservations


def _ask(cluster: ClusterConfig, role: str) -> Reservation:
    """Asks for the places of a role."""
    placement = cluster.placements()[role]
    bundle = {"CPU": float(placement.cpus_per_worker)}
    if placement.gpus_per_worker:
        bundle["GPU"] = float(placement.gpus_per_worker)
    # The labels of the nodes that a place may be on; any node will do without.
    labels = {ROLE_LABEL: cluster.label_of(role)} if cluster.role_labels else None

    numbers = count()  # Ray refuses a name that is taken, also by a group that is on its way out

    def ask(num_places: int = 1) -> PlacementGroup:
        return placement_group(
            [dict(bundle) for _ in range(num_places)],
            strategy="PACK" if role == "learner" else "SPREAD",
            name=f"sdft_ray-{role}-{next(numbers)}" if placement.is_elastic else f"sdft_ray-{role}",
            bundle_label_selector=None if labels is None else [dict(labels) for _ in range(num_places)],
        )

    if placement.is_elastic:
        return ElasticReservation(role, placement, ask)
    return Reservation(role, placement, [ask(placement.num_workers)])


def _wait(cluster: ClusterConfig, reservations: dict[str, Reservation], deadline: float) -> None:
    """Returns once all reservations have their places; else releases them at the deadline and raises ClusterError."""
    waiting = [(role, group.ready()) for role, reservation in reservations.items() for group in reservation.groups]
    remaining_s = max(0.0, deadline - time.monotonic())
    _, missing = ray.wait([place for _, place in waiting], num_returns=len(waiting), timeout=remaining_s)
    if not missing:
        return
    lacking = dict.fromkeys(role for role, place in waiting if place in missing)
    for reservation in reservations.values():
        reservation.release()
    raise ClusterError(
        f"cluster={cluster.name}: no room for the {', '.join(lacking)} workers within "
        f"{RESERVATION_TIMEOUT_S:.0f} s, though the cluster is large enough in all "
        f"({ray.available_resources()} are free); end other jobs, or "
        "lower gpus_per_worker or cpus_per_worker below what one node has."
    )


def end_workers(groups: Sequence[WorkerGroup], reservations: Collection[Reservation]) -> None:
    """Ends every worker and gives the places back; safe to call after any failure.

    Where Ray itself has died nobody is there to be asked: its workers end with it.
    """
    if dead_processes():
        return
    close_all(groups)
    for reservation in reservations:
        reservation.release()
