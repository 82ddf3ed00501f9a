"""Host memory and seconds of roles in turns and of an offloaded optimizer, in closed form."""

from dataclasses import replace

import pytest

from sdft_ray.planning.host import host_memory, moved_bytes, pinned_bytes
from sdft_ray.planning.memory import CONTEXT_GIB, ENGINE_CONTEXT_GIB, GIB, USABLE_SHARE, role_memory
from sdft_ray.planning.seconds import step_seconds
from sdft_ray.planning.traffic import step_traffic
from sdft_ray.planning.workload import Workload
from tests.planning.composed import workload

TURNS = (
    "+cluster=1xH100",
    "learner.saving=BLOCKING",
    "learner.gradient_checkpointing=true",
    "model.attention=flash_attention_2",
)
HEAD = 152064 * 3584 * 2 / GIB  # of 7B in bf16


def memory(work: Workload, role: str) -> object:
    return next(memory for memory in role_memory(work) if memory.role == role)


def test_in_turns_each_role_has_the_gpu_but_for_what_the_others_leave_on_it() -> None:
    work = workload(*TURNS)
    limits = {memory.role: memory.limit_gib for memory in role_memory(work)}
    assert limits["learner"] == pytest.approx(80 * USABLE_SHARE - ENGINE_CONTEXT_GIB - CONTEXT_GIB)
    assert limits["teacher"] == pytest.approx(80 * USABLE_SHARE - ENGINE_CONTEXT_GIB - CONTEXT_GIB - HEAD)
    assert limits["rollout"] == pytest.approx(0.9 * 80)
    on_vllm = {memory.role: memory.limit_gib for memory in role_memory(workload(*TURNS, "teacher.backend=VLLM"))}
    assert on_vllm["learner"] == pytest.approx(80 * USABLE_SHARE - 2 * ENGINE_CONTEXT_GIB)


def test_an_offloaded_optimizer_leaves_weights_heads_and_a_bucket_on_the_gpu() -> None:
    learner = memory(workload(*TURNS, "learner.offload=true"), "learner")
    params = workload(*TURNS).shape.num_parameters
    assert set(learner.held) == {"weights", "teacher heads", "gradient on its way"}
    assert learner.held["gradient on its way"] == pytest.approx(HEAD)
    assert learner.held["weights"] == pytest.approx(2 * params / GIB)
    assert "optimizer step" not in learner.phases


# 7B in bf16 with every parameter rounded up by itself [MiB]: of a layer q and o 24.5 to 32, k and v 3.5 to 4, the gated
# layer's three 129.5 to 256; embedding and head 1039.5 to 2048; biases and norms a few KiB.
APART = (28 * (2 * 32 + 2 * 4 + 3 * 256) + 2 * 2048) / 1024


@pytest.mark.parametrize(("num_bytes", "pinned"), [(0, 0), (1, 1), (2**20, 2**20), (2**20 + 1, 2**21), (3e9, 2**32)])
def test_a_pinned_tensor_takes_the_next_power_of_two(num_bytes: float, pinned: int) -> None:
    assert pinned_bytes(num_bytes) == pinned


def test_what_leaves_the_gpu_lies_in_the_host_pinned() -> None:
    params = workload(*TURNS).shape.num_parameters / GIB  # 7.09: 14.2 GiB in bf16, 28.4 in fp32
    turned, offloaded, adapted = (
        host_memory(workload(*TURNS, *more)) for more in ((), ("learner.offload=true",), ("model.adapter.kind=LORA",))
    )
    assert turned["teacher asleep"] == turned["rollout asleep"] == pytest.approx(APART, rel=1e-3)
    assert turned["learner asleep"] == pytest.approx(16 + 3 * 32 + 2 * APART, rel=1e-3)
    assert offloaded["learner asleep"] == 16
    assert adapted["learner asleep"] == pytest.approx(APART, rel=0.02), "the base, and little besides"
    assert offloaded["fp32 masters"] == offloaded["gradients"] == 32
    assert offloaded["AdamW moments"] == pytest.approx(8 * params), "which its optimizer makes, not pinned"
    assert offloaded["EMA"] == pytest.approx(4 * params)
    assert host_memory(workload("+cluster=8xA100")) == {}
    written = host_memory(workload(*TURNS, "learner.saving=BACKGROUND"))["checkpoint that is being written"]
    assert written == pytest.approx((4 + 8 + 4) * params)


def test_gradients_between_two_microbatches_are_pinned_one_by_one() -> None:
    once, twice = (
        host_memory(workload(*TURNS, "learner.offload=true", *more))["copies in the learner's precision"]
        for more in (("learner.max_tokens_per_microbatch=1000000",), ("learner.max_tokens_per_microbatch=4096",))
    )
    assert (once, twice) == (16, pytest.approx(16 + APART, rel=1e-3))


def test_the_host_holds_an_adapters_publications_and_what_it_is_merged_into() -> None:
    work = workload(*TURNS, "model.adapter.kind=LORA", "cluster.turns=false", "learner.zero_stage=2")
    held, width = host_memory(work), work.worker_element_bytes / GIB
    assert held["publications"] == pytest.approx(3 * work.num_trained * width)  # the average has twice the rank
    assert held["merged weights"] == pytest.approx((work.shape.num_parameters + work.shape.matrix_elements) * width)


def test_only_what_is_trained_takes_masters_moments_and_an_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one seam for parameters that are not trained."""
    whole = memory(workload(*TURNS), "learner").held
    monkeypatch.setattr(Workload, "num_trained", 1_000_000)
    few = memory(workload(*TURNS), "learner").held
    assert few["weights"] == whole["weights"]
    for name, width in {"fp32 masters": 4, "AdamW moments": 8, "EMA": 4, "gradients": 4}.items():
        assert few[name] == pytest.approx(width * 1e6 / GIB)


def test_turns_cost_what_they_move_and_that_nothing_overlaps() -> None:
    work = workload(*TURNS)
    params = work.shape.num_parameters
    assert moved_bytes(work) == pytest.approx(2 * params * (3 * 2 + 18))
    seconds = step_seconds(work, step_traffic(work))
    assert seconds.phases["turns"] == pytest.approx(moved_bytes(work) / (0.4 * 64e9))
    cluster = replace(work.cfg.cluster, turns=False)
    apart = replace(work, cfg=replace(work.cfg, cluster=cluster))
    assert moved_bytes(apart) == 0
    assert step_seconds(apart, step_traffic(apart)).step < seconds.step - seconds.phases["turns"]
