"""What does not fit is named."""

from tests.planning.composed import plan


def test_a_misfit_is_told_with_what_it_needs_and_what_there_is() -> None:
    (found,) = plan("+cluster=8xA100", "plan.model=qwen2.5-7b", "batch_size=128").misfits
    assert found.role == "learner"
    assert found.needed_gib > found.limit_gib
    assert str(found).startswith("learner needs ")


def test_on_a_cpu_all_roles_share_the_memory_of_the_machine() -> None:
    made = plan("+cluster=local", "plan.model=qwen2.5-7b")
    assert [misfit.role for misfit in made.misfits] == ["rollout + teacher + learner"]


def test_an_object_store_too_small_for_the_weights_is_told() -> None:
    stored = ("model.dtype=FLOAT32", "weights.channel=OBJECT_STORE", "cluster.object_store_gib=40")
    made = plan("+cluster=8xA100", "plan.model=qwen2.5-7b", *stored)
    (found,) = [misfit for misfit in made.misfits if misfit.role.startswith("the object store")]
    assert 56 < found.needed_gib < 57  # twice 7.62e9 fp32 weights are 56.7 GiB


def test_a_cache_that_holds_no_whole_sequence_is_told_and_made_larger() -> None:
    command = ("+cluster=1xH100", "cluster.turns=false", "plan.model=qwen2.5-0.5b", "rollout.kv_cache_gib=0.01")
    command += ("learner.gradient_checkpointing=true",)
    made = plan(*command)
    assert [misfit.role for misfit in made.misfits] == ["one sequence of a rollout's KV cache"]
    assert made.proposals[0].overrides == ("rollout.kv_cache_gib=0.25",)
    assert plan(*command, *made.proposals[0].overrides).misfits == []


def test_host_memory_counts_where_its_size_is_told() -> None:
    command = (
        "+cluster=1xH100",
        "plan.model=qwen2.5-7b",
        "learner.offload=true",
        "learner.gradient_checkpointing=true",
    )
    assert plan(*command).misfits == []
    made = plan(*command, "cluster.hardware.host_memory_gib=128")
    assert [misfit.role for misfit in made.misfits] == ["a node's host memory"]
