"""What is proposed where a run does not fit: planned again with it, the run fits."""

import pytest

from sdft_ray.config import Precision, TeacherBackend
from sdft_ray.planning.proposals import with_settings
from tests.planning.composed import IN_FP32, config, plan

MISFITS = [
    ["+cluster=1xH100", "plan.model=qwen2.5-1.5b", "cluster.turns=false"],
    ["+cluster=1xH100", "plan.model=qwen2.5-3b", "model.dtype=BFLOAT16", "method=sft"],
    ["+cluster=1x24GB", "plan.model=qwen2.5-3b", "learner.offload=false"],
    ["+cluster=1xH100", "plan.model=qwen2.5-7b"],
    ["+cluster=8xA100", "plan.model=qwen2.5-7b"],
    ["+cluster=8xA100", "plan.model=qwen2.5-7b", *IN_FP32, "learner.zero_stage=0", "teacher.payload=LOGITS"],
    ["+cluster=8xA100", "plan.model=qwen2.5-7b", *IN_FP32, "weights.teacher_ema=RECEIVER", "max_staleness=1"],
    ["+cluster=8xA100", "plan.model=qwen2.5-14b"],
    ["+cluster=8xA100", "plan.model=qwen3-30b-a3b"],
    ["+cluster=8xA100", "plan.model=qwen2.5-32b", "batch_size=128"],
    ["+cluster=8xA100", "plan.model=qwen2.5-72b"],
    ["+cluster=2x8xH100", "plan.model=llama-3.1-70b", "batch_size=64"],
    ["+cluster=8xA100", "plan.model=qwen2.5-14b", "method=sft"],
    ["+cluster=1x40GB", "plan.model=qwen2.5-14b"],
]


@pytest.mark.parametrize("command", MISFITS, ids=" ".join)
def test_a_proposal_that_is_pasted_behind_the_command_makes_it_fit(command: list[str]) -> None:
    made = plan(*command)
    assert made.misfits
    assert made.proposals
    for proposal in made.proposals:
        again = plan(*command, *proposal.overrides)
        assert again.misfits == []
        assert again.seconds.step == pytest.approx(proposal.step_s)


@pytest.mark.parametrize(
    ("command", "workers"),
    [
        (["+cluster=1xH100", "plan.model=qwen2.5-1.5b", "cluster.turns=false"], (1, 1, 1)),
        (["+cluster=8xA100", "plan.model=qwen2.5-14b", *IN_FP32], (1, 4, 3)),
    ],
)
def test_workers_are_redistributed_before_machines_are_asked_for(
    command: list[str], workers: tuple[int, int, int]
) -> None:
    cluster = plan(*command).proposals[-1].work.cfg.cluster
    assert (cluster.rollout.num_workers, cluster.teacher.num_workers, cluster.learner.num_workers) == workers
    assert cluster.num_nodes == 1


def test_settings_on_the_same_workers_come_before_other_workers() -> None:
    first, second = plan("+cluster=8xA100", "plan.model=qwen2.5-7b", "learner.precision=FLOAT32").proposals
    assert first.overrides == ("learner.precision=BFLOAT16", "learner.gradient_checkpointing=true")
    assert any(one.startswith("cluster.") for one in second.overrides)
    assert second.step_s < first.step_s


def test_only_what_is_needed_is_changed() -> None:
    command = ("+cluster=8xA100", "plan.model=qwen2.5-7b")
    overrides = plan(*command).proposals[0].overrides
    for left_out in overrides:
        assert plan(*command, *(one for one in overrides if one != left_out)).misfits


def test_more_machines_are_as_few_as_there_can_be() -> None:
    command = ["+cluster=8xA100", "plan.model=qwen2.5-32b", "cluster.hardware.host_memory_gib=256"]
    (proposal,) = plan(*command).proposals
    assert "cluster.num_nodes=2" in proposal.overrides
    assert str(proposal).startswith("with 2 nodes (")


def test_a_teacher_larger_than_its_gpu_is_spread_over_several() -> None:
    (proposal,) = plan("+cluster=8xA100", "plan.model=qwen2.5-72b").proposals
    assert "teacher.backend=VLLM" in proposal.overrides
    assert proposal.work.cfg.cluster.teacher.gpus_per_worker >= 2


def test_what_no_setting_helps_has_no_proposal() -> None:
    made = plan("+cluster=8xA100", "plan.model=qwen2.5-72b", "cluster.hardware.memory_gib=4")
    assert made.proposals == []


def test_shared_memory_that_was_asked_for_keeps_the_run_on_its_node() -> None:
    little = "cluster.hardware.host_memory_gib=256"  # too little for an optimizer
    made = plan("+cluster=8xA100", "plan.model=qwen2.5-32b", "weights.channel=SHARED_MEMORY", little)
    assert made.misfits
    assert made.proposals == []


def test_changed_settings_are_checked_anew() -> None:
    changes = {"learner.precision": Precision.BFLOAT16, "learner.zero_stage": 3, "batch_size": 8}
    changed = with_settings(config("+cluster=local"), changes)
    assert (changed.learner.zero_stage, changed.batch_size) == (3, 8)
    assert changed.rollout == config("+cluster=local").rollout
    with pytest.raises(Exception, match="is not a ZeRO stage"):
        with_settings(changed, {"learner.zero_stage": 4})


def test_one_gpu_is_shared_in_turns_before_the_optimizer_leaves_it() -> None:
    """Offload costs seconds a step, turns less; 7B takes both on 80 GB."""
    on_80_gb = ["+cluster=1xH100", "model.attention=flash_attention_2", "cluster.turns=false", "batch_size=8"]
    small, large = (plan(*on_80_gb, f"plan.model=qwen2.5-{size}").proposals[-1] for size in ("1.5b", "14b"))
    assert "learner.offload=true" not in small.overrides
    assert {"learner.offload=true", "cluster.turns=true"} <= set(large.overrides)


def test_an_adapter_is_proposed_where_all_weights_do_not_fit_the_only_gpu() -> None:
    proposal = plan("+cluster=1x40GB", "plan.model=qwen2.5-14b").proposals[0]
    assert str(proposal).startswith("with an adapter, which is all that is trained (")
    assert "model.adapter.kind=LORA" in proposal.overrides
    for experts_or_fit in ("qwen3-30b-a3b", "qwen2.5-3b"):
        proposals = plan("+cluster=1x40GB", f"plan.model={experts_or_fit}").proposals
        assert not any("model.adapter.kind=LORA" in one.overrides for one in proposals)


def test_a_run_that_rehearses_is_offered_no_teacher_that_could_not() -> None:
    made = plan("+cluster=8xA100", "plan.model=qwen2.5-7b", "data.rehearsal.share=0.25")
    assert made.proposals
    assert all(one.work.cfg.teacher.backend is TeacherBackend.TRANSFORMERS for one in made.proposals)
