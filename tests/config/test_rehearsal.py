"""Rehearsal is off by default, and settings that could not rehearse are refused by name."""

import pytest

from sdft_ray.config import (
    ClusterConfig,
    CompletionSource,
    DataConfig,
    LossConfig,
    MethodConfig,
    MismatchCorrection,
    RehearsalConfig,
    RunConfig,
    Target,
    TeacherBackend,
    TeacherConfig,
    TeacherWeights,
)
from sdft_ray.errors import ConfigError

SFT = {
    "method": MethodConfig(name="sft", completion=CompletionSource.DEMONSTRATION, target=Target.TOKEN),
    "loss": LossConfig(mismatch=MismatchCorrection.NONE),
}


def run(share: float = 0.25, batch_size: int = 8, **settings: object) -> RunConfig:
    data = DataConfig(rehearsal=RehearsalConfig(share=share))
    return RunConfig(cluster=ClusterConfig(), data=data, batch_size=batch_size, **settings)  # type: ignore[arg-type]


def test_a_share_alone_rehearses_the_built_in_prompts() -> None:
    assert not RehearsalConfig().is_on
    assert RehearsalConfig(share=0.25).prompts == "builtin:general"
    assert RehearsalConfig(share=0.25, source="old.jsonl").prompts == "old.jsonl"


@pytest.mark.parametrize("share", [-0.1, 1.0, 25.0, float("nan")])
def test_a_share_that_leaves_nothing_to_teach_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.rehearsal\.share=.*must lie in \[0, 1\)"):
        RehearsalConfig(share=share)


def test_prompts_without_a_share_are_refused_and_not_passed_over() -> None:
    with pytest.raises(ConfigError, match=r"data\.rehearsal\.source=old\.jsonl: .*set data\.rehearsal\.share=0\.25"):
        RehearsalConfig(source="old.jsonl")


@pytest.mark.parametrize(
    ("share", "batch_size", "message"),
    [(0.05, 8, r"less than half a row of batch_size=8; set it to 0\.125"), (0.9, 4, "rounds to all 4 rows")],
)
def test_a_share_is_at_least_a_row_and_leaves_one(share: float, batch_size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(share, batch_size)


def test_teachers_on_vllm_rehearse_where_they_are_frozen() -> None:
    run(teacher=TeacherConfig(backend=TeacherBackend.VLLM, weights=TeacherWeights.FROZEN))
    with pytest.raises(ConfigError, match=r"teacher\.backend=VLLM: .*weights=EMA.*set teacher\.backend=TRANSFORMERS"):
        run(teacher=TeacherConfig(backend=TeacherBackend.VLLM))


def test_a_teacher_that_is_another_model_cannot_rehearse() -> None:
    teacher = TeacherConfig(weights=TeacherWeights.FROZEN, path="other")
    with pytest.raises(ConfigError, match=r"data\.rehearsal\.share=0\.25: .*teacher\.path=other; leave teacher\.path"):
        run(teacher=teacher)
    run(teacher=teacher, **SFT)  # where no teacher scores anything


def test_supervised_rehearsal_takes_rollout_workers_that_write_what_is_rehearsed() -> None:
    cfg = run(**SFT)
    cfg.evaluation.prior = cfg.evaluation.general = ""
    assert cfg.needed_roles() == ["rollout", "learner"]
    cfg.data.rehearsal = RehearsalConfig()
    assert cfg.needed_roles() == ["learner"]
