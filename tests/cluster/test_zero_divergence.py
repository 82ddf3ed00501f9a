"""What a preflight says of a teacher with the student's own prompt; test_preflight.py sees it in a real one."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from sdft_ray.cluster.preflight import refuse_failed
from sdft_ray.cluster.zero_divergence import divergence_line, plainly_taught, why_not_zero
from sdft_ray.config import ClusterConfig, ModelConfig, Precision, RunConfig, TeacherConfig, TeacherWeights
from sdft_ray.config.adapter import AdapterConfig, AdapterKind
from sdft_ray.errors import PreflightError
from sdft_ray.examples import TokenizedExample

EXAMPLE = TokenizedExample(
    example_id="one",
    epoch=0,
    seed=1,
    max_new_tokens=4,
    prompt_tokens=(1, 2),
    teacher_prompt_tokens=(1, 7, 7, 7, 2),
    demonstration_tokens=(7, 7, 7),
)


def test_rounding_is_no_divergence_and_its_size_is_said() -> None:
    line = divergence_line("one", [1e-6, -3e-6], Precision.FLOAT32)
    refuse_failed([line])
    assert str(line).startswith("divergence     ok       of a teacher with the student's prompt, example one, 2 tokens")
    assert "at most 3.0e-06 nats, 2.0e-06 on average" in line.value


@pytest.mark.parametrize("divergence", [[0.0, 0.5], [0.01] * 3, [math.nan, 0.0], [math.inf]])
def test_a_teacher_that_says_something_else_refuses_the_run_with_value_and_remedy(divergence: list[float]) -> None:
    with pytest.raises(PreflightError, match=r"example one, .*has to be 0: 0\.02 and 0\.002 .*FLOAT32 .*; set teacher"):
        refuse_failed([divergence_line("one", divergence, Precision.FLOAT32)])


def test_bf16_rounds_coarser() -> None:
    assert divergence_line("one", [0.01] * 3, Precision.BFLOAT16).problem == ""
    assert divergence_line("one", [0.1] * 3, Precision.BFLOAT16).problem


def test_the_first_example_that_is_taught_and_fits_gets_the_students_prompt_on_both_sides() -> None:
    rehearsed, long = replace(EXAMPLE, is_rehearsal=True), replace(EXAMPLE, prompt_tokens=(1,) * 9)
    taken = plainly_taught([rehearsed, long, EXAMPLE], max_teacher_len=6)
    assert taken == replace(EXAMPLE, teacher_prompt_tokens=EXAMPLE.prompt_tokens)
    assert plainly_taught([rehearsed, long], max_teacher_len=6) is None


def test_sides_that_differ_by_design_are_skipped_with_the_reason(tmp_path: Path) -> None:
    cfg = RunConfig(cluster=ClusterConfig(), model=ModelConfig(path=str(tmp_path)))
    assert why_not_zero(cfg, is_other_model=False) == ""
    teacher = TeacherConfig(weights=TeacherWeights.FROZEN, path="big/model")
    assert "teacher.path=big/model" in why_not_zero(replace(cfg, teacher=teacher), is_other_model=True)
    for model in (
        replace(cfg.model, dropout=True),
        replace(cfg.model, adapter=AdapterConfig(kind=AdapterKind.LORA, dropout=0.1)),
    ):
        assert "dropout" in why_not_zero(replace(cfg, model=model), is_other_model=False)
