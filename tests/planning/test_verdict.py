"""What does not fit is named, with settings that make it fit."""

import pytest

from sdft_ray.planning.verdict import with_setting
from tests.planning.composed import config, plan

FIT = ["model.dtype=BFLOAT16", "learner.precision=BFLOAT16", "learner.gradient_checkpointing=true"]
MISFITS = [
    (["plan.model=qwen2.5-7b"], "learner"),
    (["plan.model=qwen2.5-7b", "learner.zero_stage=0"], "learner"),
    (["plan.model=qwen2.5-32b"], "rollout"),
    (["plan.model=qwen2.5-32b", *FIT], "learner"),
    (["plan.model=qwen2.5-72b", *FIT], "rollout"),
]


@pytest.mark.parametrize(("overrides", "role"), MISFITS, ids=str)
def test_a_misfit_names_settings_that_make_it_fit(overrides: list[str], role: str) -> None:
    made = plan("+cluster=8xA100", "batch_size=128", *overrides)
    found = next(misfit for misfit in made.misfits if misfit.role == role)
    assert found.needed_gib > found.limit_gib
    assert found.remedy
    assert str(found).startswith(f"{role} needs")
    repaired = plan("+cluster=8xA100", "batch_size=128", *overrides, *found.remedy)
    assert role not in {misfit.role for misfit in repaired.misfits}


def test_roles_that_share_one_gpu_are_given_their_own() -> None:
    made = plan("+cluster=1xH100", "plan.model=qwen2.5-7b", "data.max_teacher_prompt_tokens=1024")
    remedies = {misfit.role: misfit.remedy for misfit in made.misfits}
    assert "cluster.rollout.gpus_per_worker=1" not in remedies["rollout"]  # bf16 weights fit its share
    assert "cluster.learner.gpus_per_worker=1" in remedies["learner"]
    repaired = plan("+cluster=1xH100", "plan.model=qwen2.5-7b", *remedies["learner"])
    assert "learner" not in {misfit.role for misfit in repaired.misfits}


def test_a_teacher_larger_than_its_gpu_is_spread_over_several() -> None:
    made = plan("+cluster=8xA100", "plan.model=qwen2.5-72b", "cluster.object_store_gib=600")
    found = next(misfit for misfit in made.misfits if misfit.role == "teacher")
    assert {"teacher.backend=VLLM", "cluster.teacher.gpus_per_worker=2"} <= set(found.remedy)
    repaired = plan("+cluster=8xA100", "plan.model=qwen2.5-72b", *found.remedy)
    assert "teacher" not in {misfit.role for misfit in repaired.misfits}


def test_what_no_setting_helps_is_said_to_need_other_gpus() -> None:
    made = plan("+cluster=8xA100", "plan.model=qwen2.5-72b", "cluster.hardware.memory_gib=4")
    found = next(misfit for misfit in made.misfits if misfit.role == "teacher")
    assert found.remedy == ()
    assert "take GPUs with more memory" in str(found)


def test_on_a_cpu_all_roles_share_the_memory_of_the_machine() -> None:
    made = plan("+cluster=local", "plan.model=qwen2.5-7b")
    assert [misfit.role for misfit in made.misfits] == ["rollout + teacher + learner"]


def test_an_object_store_too_small_for_the_weights_is_told() -> None:
    made = plan("+cluster=8xA100", "plan.model=qwen2.5-7b", "cluster.object_store_gib=40")
    (found,) = [misfit for misfit in made.misfits if misfit.role.startswith("the object store")]
    assert found.remedy == ("cluster.object_store_gib=57",)  # twice 7.62e9 fp32 weights are 56.7 GiB


def test_changed_settings_are_checked_anew() -> None:
    changed = with_setting(config("+cluster=local"), "learner.zero_stage", 3)
    assert (changed.learner.zero_stage, changed.rollout) == (3, config("+cluster=local").rollout)
    with pytest.raises(Exception, match="is not a ZeRO stage"):
        with_setting(changed, "learner.zero_stage", 4)
