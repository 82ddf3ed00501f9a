import pytest

from sdft_ray.config import (
    AdapterConfig,
    AdapterKind,
    Channel,
    ClusterConfig,
    ModelConfig,
    Precision,
    RolePlacement,
    TeacherBackend,
    TeacherConfig,
    TeacherEma,
    TeacherWeights,
    WeightsConfig,
)
from sdft_ray.errors import ConfigError

ON_GPUS = ClusterConfig(
    gpus_per_node=2, rollout=RolePlacement(gpus_per_worker=1), learner=RolePlacement(gpus_per_worker=1)
)


def check(weights: WeightsConfig, *, cluster=None, teacher=None, model=None) -> None:
    weights.check_fit(
        cluster or ClusterConfig(), teacher or TeacherConfig(), model or ModelConfig(dtype=Precision.FLOAT32)
    )


def test_auto_takes_shared_memory_on_one_node_and_the_object_store_elsewhere() -> None:
    assert WeightsConfig().choose_channel(num_nodes=1) is Channel.SHARED_MEMORY
    assert WeightsConfig().choose_channel(num_nodes=2) is Channel.OBJECT_STORE


def test_a_named_channel_is_the_one_that_is_taken() -> None:
    for channel in (Channel.OBJECT_STORE, Channel.SHARED_MEMORY, Channel.NCCL):
        assert WeightsConfig(channel=channel).choose_channel(num_nodes=1) is channel


def test_a_channel_that_cannot_reach_the_workers_is_refused() -> None:
    check(WeightsConfig(channel=Channel.SHARED_MEMORY))
    with pytest.raises(ConfigError, match="weights.channel=SHARED_MEMORY.*has 2; set weights.channel=OBJECT_STORE"):
        check(WeightsConfig(channel=Channel.SHARED_MEMORY), cluster=ClusterConfig(num_nodes=2))
    check(WeightsConfig(channel=Channel.NCCL), cluster=ON_GPUS)
    with pytest.raises(ConfigError, match="weights.channel=NCCL.*no whole GPU"):
        check(WeightsConfig(channel=Channel.NCCL))
    with pytest.raises(ConfigError, match="teacher.weights=LIVE"):
        check(WeightsConfig(channel=Channel.NCCL), cluster=ON_GPUS, teacher=TeacherConfig(weights=TeacherWeights.LIVE))


def test_receivers_average_fp32_publications_of_the_student_only() -> None:
    receiver = WeightsConfig(teacher_ema=TeacherEma.RECEIVER)
    check(receiver)
    with pytest.raises(ConfigError, match="weights.teacher_ema=RECEIVER.*model.dtype=BFLOAT16.*or model.dtype=FLOAT32"):
        check(receiver, model=ModelConfig(dtype=Precision.BFLOAT16))
    with pytest.raises(ConfigError, match="weights.teacher_ema=RECEIVER.*teacher.backend=VLLM"):
        check(receiver, teacher=TeacherConfig(backend=TeacherBackend.VLLM))
    for weights in (TeacherWeights.FROZEN, TeacherWeights.LIVE):
        with pytest.raises(ConfigError, match="weights.teacher_ema=RECEIVER.*is no average"):
            check(receiver, teacher=TeacherConfig(weights=weights))
    with pytest.raises(ConfigError, match="weights.teacher_ema=RECEIVER.*NCCL"):
        check(WeightsConfig(teacher_ema=TeacherEma.RECEIVER, channel=Channel.NCCL), cluster=ON_GPUS)


def test_a_timeout_has_to_be_a_positive_number_of_seconds() -> None:
    with pytest.raises(ConfigError, match="weights.timeout_s=0"):
        WeightsConfig(timeout_s=0)


def test_an_adapter_refuses_channels_and_averages_that_know_whole_weights_alone() -> None:
    adapted = ModelConfig(dtype=Precision.FLOAT32, adapter=AdapterConfig(kind=AdapterKind.LORA))
    check(WeightsConfig(), model=adapted)
    with pytest.raises(ConfigError, match=r"weights.channel=NCCL.*model.adapter.kind=LORA.*set weights.channel=AUTO"):
        check(WeightsConfig(channel=Channel.NCCL), cluster=ON_GPUS, model=adapted)
    with pytest.raises(ConfigError, match=r"weights.teacher_ema=RECEIVER.*product of two factors.*teacher_ema=LEARNER"):
        check(WeightsConfig(teacher_ema=TeacherEma.RECEIVER), model=adapted)
