"""Who publishes, carries, maps and averages which weights, decided in one place."""

import ast
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sdft_ray
from sdft_ray.config import (
    Channel,
    ClusterConfig,
    DataConfig,
    LearnerConfig,
    LossConfig,
    MethodConfig,
    MismatchCorrection,
    ModelConfig,
    Payload,
    Precision,
    RehearsalConfig,
    RolePlacement,
    Target,
    TeacherBackend,
    TeacherConfig,
    TeacherEma,
    TeacherWeights,
)
from sdft_ray.weights.channel import WeightKind
from tests.weights.plans import live_plan, make_plan

STUDENT, EMA = WeightKind.STUDENT, WeightKind.EMA
SHARED = Channel.SHARED_MEMORY
ON_GPU = RolePlacement(gpus_per_worker=1)


def test_the_nodes_that_were_found_decide_and_not_those_that_are_declared() -> None:
    assert make_plan(Channel.AUTO).student_channel is SHARED
    joined = make_plan(Channel.AUTO, num_nodes=2)
    assert (joined.student_channel, joined.average_channel) == (Channel.OBJECT_STORE, Channel.OBJECT_STORE)
    assert not (joined.engines_map or joined.teachers_map or joined.masters_in_place)


def test_what_nccl_does_not_carry_takes_the_object_store() -> None:
    on_gpus = ClusterConfig(gpus_per_node=2, rollout=ON_GPU, learner=ON_GPU)
    plan = make_plan(Channel.NCCL, cluster=on_gpus)
    assert [plan.channel_of(kind) for kind in (STUDENT, EMA)] == [Channel.NCCL, Channel.OBJECT_STORE]


def test_teachers_map_the_learners_memory_only_where_it_changes_while_nothing_is_scored() -> None:
    assert make_plan(SHARED).teachers_map
    assert not make_plan(SHARED, max_staleness=1).teachers_map
    assert not make_plan(Channel.OBJECT_STORE).teachers_map
    assert not make_plan(SHARED, cluster=ClusterConfig(gpus_per_node=1, teacher=ON_GPU)).teachers_map
    assert not make_plan(SHARED, teacher_ema=TeacherEma.RECEIVER).teachers_map
    packed = TeacherConfig(backend=TeacherBackend.VLLM, payload=Payload.HIDDEN)
    assert not make_plan(SHARED, teacher=packed).teachers_map


def test_so_do_engines_whoever_averages() -> None:
    assert make_plan(SHARED, teacher_ema=TeacherEma.RECEIVER).engines_map
    assert not make_plan(SHARED, max_staleness=1).engines_map
    assert not make_plan(Channel.OBJECT_STORE).engines_map
    assert not make_plan(SHARED, cluster=ClusterConfig(gpus_per_node=1, rollout=ON_GPU)).engines_map


@pytest.mark.parametrize(
    ("weights", "loaded", "published"),
    [
        (TeacherWeights.EMA, EMA, (STUDENT, EMA)),
        (TeacherWeights.LIVE, STUDENT, (STUDENT,)),
        (TeacherWeights.FROZEN, None, (STUDENT,)),
    ],
)
def test_what_teachers_score_with_is_what_the_learner_publishes(
    weights: TeacherWeights, loaded: WeightKind | None, published: tuple[WeightKind, ...]
) -> None:
    plan = make_plan(teacher=TeacherConfig(weights=weights))
    assert (plan.teacher_kind, plan.published, plan.keeps_average) == (loaded, published, loaded is EMA)
    assert not plan.teachers_average


def test_an_average_that_teachers_make_is_kept_by_the_learner_and_does_not_travel() -> None:
    plan = make_plan(teacher_ema=TeacherEma.RECEIVER)
    assert plan.teachers_average
    assert (plan.keeps_average, plan.published) == (True, (STUDENT,))


def test_masters_lie_in_published_memory_where_the_workers_compute_with_the_same_numbers() -> None:
    whole = LearnerConfig(zero_stage=0)
    assert make_plan(SHARED, learner=whole).masters_in_place == {STUDENT, EMA}
    assert make_plan(SHARED, learner=whole, num_ranks=2).masters_in_place == {EMA}
    assert make_plan(SHARED).masters_in_place == {EMA}, "ZeRO 2 keeps its masters in a partition of its own"
    assert make_plan(Channel.OBJECT_STORE, learner=whole).masters_in_place == set()
    rounded = ModelConfig(path="model", dtype=Precision.BFLOAT16)
    assert make_plan(SHARED, learner=whole, model=rounded).masters_in_place == set()
    on_gpu = ClusterConfig(gpus_per_node=1, learner=ON_GPU)
    assert make_plan(SHARED, learner=LearnerConfig(zero_stage=1), cluster=on_gpu).masters_in_place == set()


def test_a_head_is_a_view_only_of_whole_weights_that_do_not_change_while_it_is_in_use() -> None:
    whole = LearnerConfig(zero_stage=0)
    assert make_plan(learner=whole).heads_in_place
    assert not make_plan(learner=whole, num_ranks=2).heads_in_place
    assert not make_plan(learner=whole, max_staleness=1).heads_in_place
    assert not make_plan(learner=whole, teacher=TeacherConfig(weights=TeacherWeights.FROZEN)).heads_in_place
    assert live_plan().teacher_kind is STUDENT


def test_nothing_is_planned_for_a_teacher_that_a_method_lacks() -> None:
    plan = make_plan(method=MethodConfig(target=Target.TOKEN), loss=LossConfig(mismatch=MismatchCorrection.NONE))
    assert (plan.teacher_kind, plan.published) == (None, (STUDENT,))


def test_ray_is_asked_for_its_nodes_in_one_place_and_a_plan_is_made_once_in_a_start() -> None:
    """A node that joins during a start must not split the answer."""
    calls: dict[str, list[str]] = {"nodes": [], "num_alive_nodes": [], "plan_weights": []}
    package = Path(sdft_ray.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in calls:
                    calls[name].append(str(path.relative_to(package)))
    starts = ["cluster/rollouts.py", "cluster/topology.py"]  # of rollout workers alone, and of a whole run
    # The other counts them in a job's script, before there is a driver.
    assert sorted(calls["nodes"]) == ["cluster/session.py", "targets/nodes.py"]
    assert sorted(calls["num_alive_nodes"]) == starts
    assert sorted(calls["plan_weights"]) == [*starts, "planning/workload.py"]


@dataclass(frozen=True)
class FakeSender:
    channel: Channel
    weights: object


def test_a_rank_has_one_sender_for_each_channel_and_the_average_never_goes_from_gpu_to_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = {channel: SimpleNamespace(sender=partial(FakeSender, channel)) for channel in Channel}
    monkeypatch.setattr("sdft_ray.weights.plan.ends_of", ends.__getitem__)
    weights: Any = object()
    direct = replace(make_plan(), student_channel=Channel.NCCL).make_senders(weights)
    assert direct == {STUDENT: FakeSender(Channel.NCCL, weights), EMA: FakeSender(Channel.OBJECT_STORE, weights)}
    shared = make_plan(SHARED).make_senders(weights)
    assert shared[STUDENT] is shared[EMA], "one end holds the memory of both"


def test_teachers_keep_the_initial_weights_where_they_rehearse_and_would_lose_them() -> None:
    rehearsing = DataConfig(rehearsal=RehearsalConfig(share=0.25))
    assert make_plan(data=rehearsing).teachers_keep_initial
    assert make_plan(data=rehearsing, teacher=TeacherConfig(weights=TeacherWeights.LIVE)).teachers_keep_initial
    assert not make_plan().teachers_keep_initial
    frozen = TeacherConfig(weights=TeacherWeights.FROZEN)
    assert not make_plan(data=rehearsing, teacher=frozen).teachers_keep_initial, "a frozen teacher has no others"
    supervised = {"method": MethodConfig(target=Target.TOKEN), "loss": LossConfig(mismatch=MismatchCorrection.NONE)}
    assert not make_plan(data=rehearsing, **supervised).teachers_keep_initial, "there is no teacher"
