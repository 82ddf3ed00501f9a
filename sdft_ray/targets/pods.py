"""The pods that the driver's placement fills: from the same cluster file, so the two cannot disagree."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sdft_ray.config import ClusterConfig, RolePlacement
from sdft_ray.config.cluster import ANY_ROLE
from sdft_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class PodGroup:
    """Pods that are alike; each is one node of the Ray cluster."""

    name: str  # that of its only role, or ANY_ROLE: ROLE_LABEL's value on it
    num_pods: int
    most_pods: int  # where pods come and go with the workers on them; else as many as there are
    gpus: int  # of a pod
    cpus: int  # of a pod


def pod_groups(cluster: ClusterConfig, roles: Sequence[str]) -> list[PodGroup]:
    """One group a role; one for all where roles share GPUs, since no GPU belongs to two pods.

    Pods are as large as the nodes allow. Where their sizes leave gaps that another cannot fill, they hold one worker
    each; the learner's last, since its ranks exchange gradients all the time. Workers that come and go have a pod each.

    Raises:
        ConfigError: a worker wants more GPUs than a node has, or is to come and go with pods of other roles.
    """
    placements = {role: cluster.placements()[role] for role in roles}
    if all(cluster.label_of(role) == ANY_ROLE for role in roles):
        if cluster.rollout.is_elastic:
            problem = "has workers come and go with their pods, which hold all roles where roles share GPUs"
            raise ConfigError("cluster.rollout.max_workers", cluster.rollout.max_workers, problem, "leave it out")
        num_cpus = sum(placement.num_workers * placement.cpus_per_worker for placement in placements.values())
        cpus = math.ceil(num_cpus / cluster.num_nodes)
        num_pods = cluster.num_nodes
        return [PodGroup(name=ANY_ROLE, num_pods=num_pods, most_pods=num_pods, gpus=cluster.gpus_per_node, cpus=cpus)]
    for role, placement in placements.items():
        if placement.gpus_per_worker > cluster.gpus_per_node:
            problem = f"is more than the {cluster.gpus_per_node} GPUs of a node, and a worker is on one node"
            raise ConfigError(f"cluster.{role}.gpus_per_worker", placement.gpus_per_worker, problem, "lower it")
    layouts = list(_layouts(cluster, placements))
    return next((groups for groups in layouts if _fit(groups, cluster)), layouts[-1])


def _layouts(cluster: ClusterConfig, placements: dict[str, RolePlacement]) -> Iterator[list[PodGroup]]:
    """The groups with large pods, with large pods of the learner alone, and with one worker a pod."""
    for large in (tuple(placements), ("learner",), ()):
        yield [
            _group(role, placement, _most_workers(cluster, placement) if role in large else 1)
            for role, placement in placements.items()
        ]


def _most_workers(cluster: ClusterConfig, placement: RolePlacement) -> int:
    """Workers of a role that one pod holds at most; on the CPU those of an even share."""
    if placement.is_elastic:
        return 1
    if placement.gpus_per_worker:
        return cluster.gpus_per_node // int(placement.gpus_per_worker)
    return math.ceil(placement.num_workers / cluster.num_nodes)


def _group(role: str, placement: RolePlacement, most_workers: int) -> PodGroup:
    num_pods = math.ceil(placement.num_workers / most_workers)
    workers = math.ceil(placement.num_workers / num_pods)  # the pods of a gang are alike
    return PodGroup(
        name=role,
        num_pods=num_pods,
        most_pods=placement.most_workers if placement.is_elastic else num_pods,
        gpus=workers * int(placement.gpus_per_worker),
        cpus=workers * placement.cpus_per_worker,
    )


def _fit(groups: Sequence[PodGroup], cluster: ClusterConfig) -> bool:
    """True when the nodes have room for all pods, the largest placed first."""
    free = [cluster.gpus_per_node] * cluster.num_nodes
    for gpus in sorted((group.gpus for group in groups for _ in range(group.num_pods)), reverse=True):
        fullest = min((room for room in free if room >= gpus), default=None)
        if fullest is None:
            return False
        free[free.index(fullest)] -= gpus
    return True
