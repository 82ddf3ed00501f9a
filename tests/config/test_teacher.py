import pytest

from sdft_ray.config import (
    ClusterConfig,
    LossConfig,
    MethodConfig,
    MismatchCorrection,
    Payload,
    RolePlacement,
    RunConfig,
    Target,
    TeacherBackend,
    TeacherConfig,
    TeacherEma,
    WeightsConfig,
)
from sdft_ray.errors import ConfigError

SPREAD_TEACHER = ClusterConfig(gpus_per_node=2, teacher=RolePlacement(gpus_per_worker=2))


def test_a_teacher_on_vllm_sends_hidden_states_and_nothing_else() -> None:
    TeacherConfig(backend=TeacherBackend.VLLM)
    for payload in (Payload.LOGITS, Payload.TOPK):
        with pytest.raises(ConfigError, match=f"teacher.payload={payload.name}.*set teacher.payload=HIDDEN"):
            TeacherConfig(backend=TeacherBackend.VLLM, payload=payload)


def test_only_vllm_spreads_a_teacher_over_several_gpus() -> None:
    RunConfig(cluster=SPREAD_TEACHER, teacher=TeacherConfig(backend=TeacherBackend.VLLM))
    with pytest.raises(ConfigError, match="cluster.teacher.gpus_per_worker=2.*set teacher.backend=VLLM"):
        RunConfig(cluster=SPREAD_TEACHER)


def test_where_no_teacher_is_started_its_placement_does_not_matter() -> None:
    RunConfig(
        cluster=SPREAD_TEACHER,
        method=MethodConfig(target=Target.TOKEN),
        loss=LossConfig(mismatch=MismatchCorrection.NONE),
    )


def test_a_teacher_on_vllm_loads_weights_and_averages_none() -> None:
    teacher = TeacherConfig(backend=TeacherBackend.VLLM)
    RunConfig(cluster=ClusterConfig(), teacher=teacher)
    with pytest.raises(ConfigError, match="weights.teacher_ema=RECEIVER.*teacher.backend=VLLM.*teacher_ema=LEARNER"):
        RunConfig(cluster=ClusterConfig(), teacher=teacher, weights=WeightsConfig(teacher_ema=TeacherEma.RECEIVER))


@pytest.mark.parametrize("value", ["false", "True"])
def test_a_switch_that_is_the_text_of_a_truth_is_refused(value: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"teacher\.template_switches\.think='{value}': is a text.*without quotation"
    ):
        TeacherConfig(template_switches={"think": value})
    assert TeacherConfig(template_switches={"think": False, "effort": "low"}).template_switches["effort"] == "low"
