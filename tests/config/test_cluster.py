import pytest

from sdft_ray.config import Channel, ClusterConfig, RolePlacement, RunConfig, WeightsConfig
from sdft_ray.errors import ConfigError
from sdft_ray.weights.plan import plan_weights


def test_roles_share_cores_where_they_want_more_threads_than_there_are() -> None:
    two = RolePlacement(threads_per_worker=2)
    assert ClusterConfig(rollout=two, teacher=two).scores_on_sampling_cores(2)
    assert not ClusterConfig(rollout=two, teacher=two).scores_on_sampling_cores(4)
    assert not ClusterConfig().scores_on_sampling_cores(2)


def test_gpus_are_no_shared_cores() -> None:
    on_gpu = RolePlacement(gpus_per_worker=1, threads_per_worker=8)
    assert not ClusterConfig(gpus_per_node=2, rollout=on_gpu, teacher=on_gpu).scores_on_sampling_cores(2)


def test_workers_that_come_and_go_are_refused_where_they_cannot() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.teacher\.max_workers=3: has workers join and leave, which those"):
        ClusterConfig(teacher=RolePlacement(max_workers=3))
    with pytest.raises(ConfigError, match=r"cluster\.rollout\.max_workers=1: must be at least 2"):
        ClusterConfig(rollout=RolePlacement(num_workers=2, max_workers=1))
    with pytest.raises(ConfigError, match=r"cluster\.rollout\.max_workers=2: .* cluster\.turns=true"):
        ClusterConfig(turns=True, rollout=RolePlacement(max_workers=2))
    gpu = RolePlacement(gpus_per_worker=1)
    rollout = RolePlacement(gpus_per_worker=1, max_workers=2)
    cluster = ClusterConfig(gpus_per_node=3, rollout=rollout, teacher=gpu, learner=gpu)
    with pytest.raises(ConfigError, match=r"deterministic=True: cannot hold with cluster\.rollout\.max_workers=2"):
        RunConfig(cluster=cluster, deterministic=True)
    for channel in (Channel.SHARED_MEMORY, Channel.NCCL):
        with pytest.raises(ConfigError, match=r"weights\.channel=.*joins, .*max_workers=2"):
            RunConfig(cluster=cluster, weights=WeightsConfig(channel=channel))


def test_weights_travel_by_the_object_store_where_workers_may_join_on_another_node() -> None:
    cluster = ClusterConfig(rollout=RolePlacement(max_workers=2))
    assert plan_weights(RunConfig(cluster=cluster), num_nodes=1).student_channel is Channel.OBJECT_STORE
    assert plan_weights(RunConfig(cluster=ClusterConfig()), num_nodes=1).student_channel is Channel.SHARED_MEMORY
