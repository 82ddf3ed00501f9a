"""Cluster files become places for actors: on a Ray cluster that pretends to have eight GPUs."""

from typing import Any

import pytest
import ray

from sdft_ray.cluster.actors import unused_name
from sdft_ray.cluster.environment import SPIN_COUNT, actor_environment
from sdft_ray.cluster.placement import reserve
from sdft_ray.cluster.session import check_resources
from sdft_ray.config import ClusterConfig, RolePlacement
from sdft_ray.errors import ClusterError, ConfigError
from tests.cluster.reporter import Reporter
from tests.test_conf import compose_with


def start(reservation: Any) -> list[Any]:
    return [
        ray.remote(Reporter).options(**reservation.actor_options(rank)).remote()
        for rank in range(reservation.placement.num_workers)
    ]


def test_every_worker_of_8xa100_gets_gpus_of_its_own(cluster: None) -> None:
    reservations = reserve(compose_with("+cluster=8xA100").cluster, ["rollout", "teacher", "learner"])
    actors = {role: start(reservation) for role, reservation in reservations.items()}
    gpus = {role: ray.get([actor.gpus.remote() for actor in group]) for role, group in actors.items()}
    assert {role: [len(ids) for ids in groups] for role, groups in gpus.items()} == {
        "rollout": [1, 1],
        "teacher": [1, 1],
        "learner": [1, 1, 1, 1],
    }
    assert len({gpu for groups in gpus.values() for ids in groups for gpu in ids}) == 8
    release(reservations, actors)


def test_three_roles_share_the_gpu_of_1xh100(cluster: None) -> None:
    config = compose_with("+cluster=1xH100").cluster
    assert config.turns and config.num_gpus <= 1
    assert [role.device for role in config.placements().values()] == ["cuda"] * 3
    assert [role.tensor_parallel_size for role in config.placements().values()] == [1, 1, 1]
    assert config.gpu_share("rollout") == 1.0, "in its turn"


def test_a_worker_computes_with_its_threads_and_no_more(cluster: None) -> None:
    reservations = reserve(compose_with("+cluster=local").cluster, ["learner"])
    (actor,) = actors = start(reservations["learner"])
    environment = ray.get(actor.environment.remote())
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["DS_ACCELERATOR"] == "cpu"
    release(reservations, {"learner": actors})


def test_an_actor_that_comes_after_another_of_its_name_has_one_of_its_own() -> None:
    """Ray refuses a name that another actor of the job has, one that is being killed among them."""
    assert [unused_name("named/rollout-0") for _ in range(3)] == [
        "named/rollout-0",
        "named/rollout-0.2",
        "named/rollout-0.3",
    ]


def test_threads_that_wait_for_one_another_on_a_cpu_leave_its_cores_to_other_roles() -> None:
    assert actor_environment("learner", RolePlacement())["GOMP_SPINCOUNT"] == SPIN_COUNT
    assert "GOMP_SPINCOUNT" not in actor_environment("learner", RolePlacement(gpus_per_worker=1))


def test_a_gpu_worker_is_not_told_to_use_the_cpu() -> None:
    environment = actor_environment("learner", RolePlacement(gpus_per_worker=1))
    assert "DS_ACCELERATOR" not in environment
    assert "VLLM_CPU_OMP_THREADS_BIND" not in actor_environment("rollout", RolePlacement(gpus_per_worker=4))
    assert RolePlacement(gpus_per_worker=4).tensor_parallel_size == 4


def test_how_ranks_reach_one_another_is_passed_on_whatever_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"NCCL_IB_HCA": "mlx5", "GLOO_SOCKET_IFNAME": "eth1", "VLLM_USE_V2_MODEL_RUNNER": "0"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for role in ("rollout", "teacher", "learner"):
        assert actor_environment(role, RolePlacement()).items() >= given.items()


def test_segments_expand_on_a_single_gpu_that_does_not_sample_unless_the_user_says_how(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
    for name in names:
        monkeypatch.delenv(name, raising=False)

    def allocator(role: str, gpus_per_worker: float) -> dict[str, str]:
        environment = actor_environment(role, RolePlacement(gpus_per_worker=gpus_per_worker))
        return {name: environment[name] for name in names if name in environment}

    expanding = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    assert allocator("learner", 1) == allocator("teacher", 0.5) == expanding
    assert allocator("rollout", 1) == allocator("teacher", 2) == allocator("learner", 0) == {}
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:512")
    assert allocator("learner", 1) == {"PYTORCH_ALLOC_CONF": "max_split_size_mb:512"}


def test_what_a_cluster_lacks_is_named(cluster: None) -> None:
    with pytest.raises(ClusterError, match="cluster=2x8xH100 needs 16 GPUs, this Ray cluster has 8"):
        check_resources(compose_with("+cluster=2x8xH100").cluster)


def test_a_worker_larger_than_a_node_is_refused_after_a_while(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdft_ray.cluster.placement.RESERVATION_TIMEOUT_S", 2.0)
    too_large = ClusterConfig(name="huge", teacher=RolePlacement(cpus_per_worker=1000))
    with pytest.raises(ClusterError, match="cluster=huge: no room for the teacher workers within 2 s"):
        reserve(too_large, ["teacher", "learner"])


class NoPlaces:
    """A placement group that never gets its places."""

    def ready(self) -> object:
        return object()


def test_places_that_are_not_there_are_waited_for_once_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    groups: list[NoPlaces] = []
    removed: list[NoPlaces] = []

    def ask(*_: Any, **__: Any) -> NoPlaces:
        groups.append(NoPlaces())
        return groups[-1]

    def wait(waiting: list[object], *, timeout: float, **_: Any) -> tuple[list[object], list[object]]:
        waits.append(timeout)
        return [], waiting

    monkeypatch.setattr("sdft_ray.cluster.placement.placement_group", ask)
    monkeypatch.setattr("sdft_ray.cluster.placement.remove_placement_group", removed.append)
    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "available_resources", dict)
    with pytest.raises(ClusterError, match="no room for the learner workers within 60 s"):
        reserve(ClusterConfig(name="full"), ["rollout", "learner"])
    assert sum(waits) <= 60
    assert removed == groups


def test_a_share_above_one_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.teacher\.gpus_per_worker=1\.5: is neither a share"):
        ClusterConfig(gpus_per_node=8, teacher=RolePlacement(gpus_per_worker=1.5))


def release(reservations: dict[str, Any], actors: dict[str, list[Any]]) -> None:
    for group in actors.values():
        for actor in group:
            ray.kill(actor)
    for reservation in reservations.values():
        reservation.release()


def test_only_the_roles_that_are_started_need_their_places(cluster: None) -> None:
    many = compose_with("+cluster=local", "cluster.rollout.num_workers=500", "batch_size=500").cluster
    check_resources(many, ["learner"])
    with pytest.raises(ClusterError, match="needs 501 CPUs"):
        check_resources(many, ["rollout", "learner"])
