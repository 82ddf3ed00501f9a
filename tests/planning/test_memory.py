"""Memory by role: closed forms for what ZeRO divides, and what each setting changes."""

from math import ceil

import pytest

from sdft_ray.planning.memory import GIB, RoleMemory, cached_sequences, object_store_gib, role_memory
from tests.planning.composed import IN_FP32, workload

HEAD = 152_064 * 3584
PARAMETERS = 7_615_616_512


def memory_of(role: str, *overrides: str) -> RoleMemory:
    roles = {memory.role: memory for memory in role_memory(workload("+cluster=8xA100", *IN_FP32, *overrides))}
    return roles[role]


def test_zero_stages_divide_one_thing_more_each_among_the_ranks() -> None:
    ranks = 4
    divisors = {  # of weights, gradients, fp32 masters, moments
        0: (1, 1, None, 1),
        1: (1, 1, ranks, ranks),
        2: (1, ranks, ranks, ranks),
        3: (ranks, ranks, ranks, ranks),
    }
    bytes_each = {"weights": 4, "gradients": 4, "fp32 masters": 4, "AdamW moments": 8}
    for stage, expected in divisors.items():
        held = memory_of("learner", f"learner.zero_stage={stage}").held
        for (name, size), divisor in zip(bytes_each.items(), expected, strict=True):
            if divisor is None:
                assert name not in held
            else:
                assert held[name] == pytest.approx(PARAMETERS * size / divisor / GIB)
        assert held["EMA"] == pytest.approx(PARAMETERS * 4 / ranks / GIB)


@pytest.mark.parametrize("staleness", [0, 3])
def test_hidden_payloads_take_a_teachers_head_for_every_version_in_flight(staleness: int) -> None:
    held = memory_of("learner", f"max_staleness={staleness}", "model.dtype=BFLOAT16").held
    assert held["teacher heads"] == pytest.approx((staleness + 1) * HEAD * 2 / GIB)
    assert "teacher heads" not in memory_of("learner", "teacher.payload=LOGITS").held


def test_logits_payloads_are_opened_whole() -> None:
    hidden = memory_of("learner").phases["forward and backward"]
    logits = memory_of("learner", "teacher.payload=LOGITS").phases["forward and backward"]
    rows = workload("+cluster=8xA100", *IN_FP32).microbatch_samples * 32
    assert logits - hidden == pytest.approx(rows * 152_064 * 4 / GIB)


def test_only_an_average_takes_memory_for_one() -> None:
    assert "EMA" not in memory_of("learner", "teacher.weights=FROZEN").held


def test_checkpointing_and_attention_without_masks_save_activations() -> None:
    full = memory_of("learner", "model.attention=sdpa").phases["forward and backward"]
    without_masks = memory_of("learner").phases["forward and backward"]
    checkpointed = memory_of("learner", "learner.gradient_checkpointing=true").phases["forward and backward"]
    assert checkpointed < without_masks < full


def test_an_engine_fills_what_is_left_of_its_gpu_with_its_cache() -> None:
    memory = memory_of("rollout")
    assert memory.total_gib == pytest.approx(memory.limit_gib) == pytest.approx(0.9 * 80)
    spread = memory_of("rollout", "cluster.rollout.gpus_per_worker=2", "cluster.num_nodes=2")
    assert spread.held["weights"] == pytest.approx(memory.held["weights"] / 2)


def test_cached_sequences_are_whole_ones() -> None:
    work = workload("+cluster=8xA100", *IN_FP32)
    cache_bytes = memory_of("rollout").held["KV cache"] * GIB
    per_token = 2 * 28 * 4 * 128 * 4
    assert cached_sequences(work) == int(cache_bytes / (per_token * (1024 + 32)))


def test_the_engine_of_1xh100_holds_a_batch_of_the_paper_at_a_time() -> None:
    """Each of them at its longest."""
    bf16 = ("model.dtype=BFLOAT16", "batch_size=32", "rollout.max_new_tokens=2048")
    for model in ("qwen2.5-3b", "qwen2.5-7b"):
        work = workload("+cluster=1xH100", f"plan.model={model}", *bf16)
        (engine,) = [memory for memory in role_memory(work) if memory.role == "rollout"]
        assert engine.fits_in(engine.limit_gib)
        assert model == "qwen2.5-7b" or cached_sequences(work) >= 32


def test_the_object_store_holds_both_sets_of_weights_and_the_payloads() -> None:
    both = 2 * PARAMETERS * 4
    payloads = 16 * 32 * 3584 * 4
    assert object_store_gib(workload("+cluster=8xA100", *IN_FP32)) == pytest.approx((both + payloads) / GIB)
    frozen = object_store_gib(workload("+cluster=8xA100", *IN_FP32, "teacher.weights=FROZEN"))
    assert frozen == pytest.approx((both / 2 + payloads) / GIB)


def test_on_one_cpu_weights_do_not_pass_through_the_object_store() -> None:
    assert object_store_gib(workload("+cluster=local")) == pytest.approx(16 * 32 * 3584 * 4 / GIB)


def test_a_microbatch_holds_as_many_samples_as_its_budget() -> None:
    work = workload("+cluster=8xA100", *IN_FP32, "batch_size=32", "learner.max_tokens_per_microbatch=4300")
    assert work.sequence_tokens == 1056
    assert work.microbatch_samples == 4
    assert work.num_microbatches == ceil(32 / 4 / work.microbatch_samples)


def test_teachers_that_average_themselves_spare_a_publication() -> None:
    spared = object_store_gib(workload("+cluster=8xA100", *IN_FP32)) - object_store_gib(
        workload("+cluster=8xA100", *IN_FP32, "weights.teacher_ema=RECEIVER")
    )
    assert spared == pytest.approx(PARAMETERS * 4 / GIB)


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        (["learner.zero_stage=0"], 0),
        (["learner.zero_stage=2"], 1),
        (["learner.zero_stage=0", "cluster.learner.num_workers=2"], 1),
        (["learner.zero_stage=0", "model.dtype=BFLOAT16"], 2),
        (["learner.zero_stage=0", "weights.channel=OBJECT_STORE"], 2),
    ],
)
def test_what_a_learner_on_a_cpu_keeps_whole_is_published_where_it_is(settings: list[str], copies: int) -> None:
    work = workload("+cluster=local", *settings)
    held = {memory.role: memory.held for memory in role_memory(work)}["learner"]
    assert held.get("publications", 0) == pytest.approx(copies * PARAMETERS * work.worker_element_bytes / GIB)


def test_on_a_cpu_the_bare_processes_count() -> None:
    on_cpu = {memory.role: memory.held for memory in role_memory(workload("+cluster=local"))}
    assert all("processes" in held for held in on_cpu.values())
    assert "processes" not in memory_of("learner").held


def test_rehearsal_costs_a_second_network_in_each_teacher_and_one_more_head() -> None:
    rehearsing = ("data.rehearsal.share=0.25", "model.dtype=BFLOAT16")
    assert memory_of("teacher", *rehearsing).held["initial weights, for rehearsal"] == pytest.approx(
        PARAMETERS * 2 / GIB
    )
    assert memory_of("learner", *rehearsing).held["teacher heads"] == pytest.approx(2 * HEAD * 2 / GIB)
    frozen = memory_of("teacher", *rehearsing, "teacher.weights=FROZEN").held
    assert "initial weights, for rehearsal" not in frozen
    assert memory_of("learner", *rehearsing, "teacher.weights=FROZEN").held["teacher heads"] == pytest.approx(
        HEAD * 2 / GIB
    )


def test_an_adapter_is_all_that_has_gradients_masters_moments_and_an_average() -> None:
    adapter = ("model.adapter.kind=LORA", "model.adapter.rank=16")
    work = workload("+cluster=8xA100", *IN_FP32, *adapter)
    hidden, key, inner, layers = 3584, 512, 18944, 28
    assert work.num_trained == 16 * layers * (2 * 2 * hidden + 2 * (hidden + key) + 3 * (hidden + inner)) == 40_370_176
    held = memory_of("learner", *adapter, "learner.zero_stage=2").held
    assert held["weights"] == pytest.approx((PARAMETERS + work.num_trained) * 4 / GIB)
    assert held["AdamW moments"] == pytest.approx(work.num_trained * 8 / 4 / GIB)
    assert held["EMA"] == pytest.approx(2 * work.num_trained * 4 / GIB)  # of twice the rank, whole on every rank
    assert object_store_gib(work) < 0.1 * object_store_gib(workload("+cluster=8xA100", *IN_FP32))
