"""Pods have what the driver's placement asks for, on every cluster file there is."""

import pytest

from sdft_ray.config import ClusterConfig, RolePlacement
from sdft_ray.config.cluster import ANY_ROLE
from sdft_ray.errors import ConfigError
from sdft_ray.launch import CONF
from sdft_ray.targets.pods import PodGroup, pod_groups
from tests.test_conf import compose_with

CLUSTERS = sorted(path.stem for path in (CONF / "cluster").glob("*.yaml"))


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_worker_of_every_cluster_file_fits_into_a_pod(name: str) -> None:
    cluster = compose_with(f"+cluster={name}").cluster
    groups = {group.name: group for group in pod_groups(cluster, ["rollout", "teacher", "learner"])}
    assert sum(group.num_pods * group.gpus for group in groups.values()) >= cluster.num_gpus
    for role, placement in cluster.placements().items():
        group = groups[cluster.label_of(role)]
        assert group.num_pods * group.cpus >= placement.num_workers * placement.cpus_per_worker
        if placement.gpus_per_worker >= 1:
            workers_of_a_pod = group.gpus // int(placement.gpus_per_worker)
            assert group.num_pods * workers_of_a_pod >= placement.num_workers
        assert group.gpus <= cluster.gpus_per_node


def test_roles_that_share_a_gpu_share_a_pod() -> None:
    cluster = compose_with("+cluster=1xH100").cluster
    assert pod_groups(cluster, ["rollout", "teacher", "learner"]) == [
        PodGroup(name=ANY_ROLE, num_pods=1, most_pods=1, gpus=1, cpus=cluster.num_cpus)
    ]


def test_the_pods_of_a_gang_are_alike() -> None:
    learner = RolePlacement(num_workers=6, gpus_per_worker=1)
    (group,) = pod_groups(ClusterConfig(num_nodes=2, gpus_per_node=4, learner=learner), ["learner"])
    assert (group.num_pods, group.gpus) == (2, 3)


def test_pods_whose_sizes_leave_gaps_hold_one_worker_each() -> None:
    six, four = (RolePlacement(num_workers=workers, gpus_per_worker=1) for workers in (12, 4))
    groups = pod_groups(ClusterConfig(num_nodes=2, gpus_per_node=8, learner=six, rollout=four), ["rollout", "learner"])
    assert [(group.name, group.num_pods, group.gpus) for group in groups] == [("rollout", 4, 1), ("learner", 2, 6)]


def test_a_worker_that_no_node_can_hold_is_refused() -> None:
    cluster = ClusterConfig(num_nodes=2, gpus_per_node=8, rollout=RolePlacement(gpus_per_worker=16))
    with pytest.raises(ConfigError, match=r"cluster.rollout.gpus_per_worker=16: is more than the 8 GPUs of a node"):
        pod_groups(cluster, ["rollout"])


def test_workers_that_come_and_go_have_a_pod_each() -> None:
    rollout = RolePlacement(num_workers=2, max_workers=6, gpus_per_worker=1)
    learner = RolePlacement(num_workers=4, gpus_per_worker=1)
    cluster = ClusterConfig(num_nodes=2, gpus_per_node=4, rollout=rollout, learner=learner)
    groups = {group.name: group for group in pod_groups(cluster, ["rollout", "learner"])}
    assert (groups["rollout"].num_pods, groups["rollout"].most_pods, groups["rollout"].gpus) == (2, 6, 1)
    assert (groups["learner"].num_pods, groups["learner"].most_pods, groups["learner"].gpus) == (1, 1, 4)


def test_workers_that_come_and_go_are_refused_where_pods_hold_all_roles() -> None:
    shared = RolePlacement(gpus_per_worker=0.3)
    rollout = RolePlacement(gpus_per_worker=0.3, max_workers=2)
    cluster = ClusterConfig(gpus_per_node=1, rollout=rollout, teacher=shared, learner=shared)
    with pytest.raises(ConfigError, match=r"cluster\.rollout\.max_workers=2: has workers come and go with their pods"):
        pod_groups(cluster, ["rollout", "teacher", "learner"])
