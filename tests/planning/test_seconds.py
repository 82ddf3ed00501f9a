"""Seconds of the phases: closed forms, and how they add up."""

import pytest

from sdft_ray.config import Precision
from sdft_ray.planning.seconds import MERGING_S, StepSeconds, step_seconds
from sdft_ray.planning.traffic import step_traffic
from tests.planning.composed import workload


def seconds_of(*overrides: str) -> StepSeconds:
    work = workload("+cluster=8xA100", "model.dtype=BFLOAT16", "learner.precision=BFLOAT16", *overrides)
    return step_seconds(work, step_traffic(work))


def test_decoding_reads_weights_and_cache_once_a_token() -> None:
    """8 completions in each of two engines, all in one wave."""
    weights = 7_615_616_512 * 2
    cache = 8 * (1024 + 33 / 2) * 2 * 28 * 4 * 128 * 2
    assert seconds_of().phases["decode"] == pytest.approx(32 * (weights + cache) / (2039e9 * 0.4))


def test_a_second_wave_takes_as_long_again() -> None:
    one, two = (seconds_of(f"rollout.max_concurrent={wave}").phases["decode"] for wave in (8, 4))
    assert two == pytest.approx(2 * one, rel=0.02)  # half as much cache is read in each


def test_twice_the_peak_is_half_the_time() -> None:
    slow, fast = seconds_of(), seconds_of("cluster.hardware.tflops_bf16=624")
    for phase in ("prefill", "teacher forward", "learner forward and backward"):
        assert fast.phases[phase] == pytest.approx(slow.phases[phase] / 2)


def test_checkpointing_costs_a_third_of_forward_and_backward() -> None:
    plain, again = (
        seconds_of(f"learner.gradient_checkpointing={choice}").phases["learner forward and backward"]
        for choice in ("false", "true")
    )
    assert again / plain == pytest.approx(4 / 3, rel=0.02)  # the head is not computed again


def test_taking_turns_adds_up_and_running_ahead_does_not() -> None:
    turns, ahead = seconds_of("max_staleness=0"), seconds_of("max_staleness=1")
    assert turns.phases == pytest.approx(ahead.phases)
    assert max(turns.phases.values()) < ahead.step < turns.step < sum(turns.phases.values())


def test_an_adapter_is_merged_into_every_target_before_the_next_step() -> None:
    lora, merging = "model.adapter.kind=LORA", "merging the adapter"
    targets = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)  # of 7B
    sent = 7_615_616_512 * 2 / (0.4 * 32e9)
    assert seconds_of(lora).phases[merging] == pytest.approx(MERGING_S[Precision.BFLOAT16] * targets + sent)
    attention = seconds_of(lora, "model.adapter.targets=[q_proj,o_proj]").phases[merging]
    assert attention == pytest.approx(MERGING_S[Precision.BFLOAT16] * 28 * 2 * 3584 * 3584 + sent)
    assert merging not in seconds_of().phases
    assert seconds_of(lora).step > seconds_of(lora).phases[merging] + seconds_of(lora).phases["decode"]


def test_the_bottleneck_is_the_longest_phase() -> None:
    assert seconds_of("data.max_teacher_prompt_tokens=30000").bottleneck == "teacher forward"
    assert seconds_of("cluster.hardware.host_gb_per_s=0.01").bottleneck.startswith("learner -> ")
