"""Seconds of every phase of a step, from the peak figures of the hardware and the share of them that is attainable.

A phase takes as long as its arithmetic or its reading of memory, whichever is longer, plus what it sends.
"""

import math
from dataclasses import dataclass

from sdft_ray.config import CompletionSource, Precision
from sdft_ray.models.adapter import num_target_elements
from sdft_ray.models.arithmetic import (
    ADAMW_BYTES_PER_PARAMETER,
    FP32_BYTES,
    forward_flops,
    kv_cache_bytes_per_token,
    training_flops,
    weight_bytes,
)
from sdft_ray.planning.host import moved_bytes
from sdft_ray.planning.memory import cached_sequences
from sdft_ray.planning.traffic import GIGA, During, Link
from sdft_ray.planning.workload import Workload

TERA = 1e12
# Of one weight beneath an adapter of rank 8, by the workers' precision: CPU seconds, measured on an x86-64 core.
MERGING_S = {Precision.FLOAT32: 0.6e-9, Precision.BFLOAT16: 0.5e-9}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSeconds:
    """The phases of one step, and how they add up."""

    phases: dict[str, float]
    step: float

    @property
    def bottleneck(self) -> str:
        """The longest phase."""
        return max(self.phases, key=self.phases.__getitem__)


def step_seconds(work: Workload, links: list[Link]) -> StepSeconds:
    """Predicts one step.

    With max_staleness=0 the roles follow each other, except that a completion is scored while others are still
    written: whichever of both is longer counts. With cluster.turns nothing overlaps, and memory is moved besides.
    Otherwise the slower side counts: sampling and scoring, or learning.
    """
    phases: dict[str, float] = {}
    if "rollout" in work.roles and work.cfg.method.completion is CompletionSource.STUDENT:
        phases |= {"prefill": _prefill(work), "decode": _decode(work)}
    if "teacher" in work.roles:
        phases["teacher forward"] = _teacher(work)
    phases |= {"learner forward and backward": _learner(work), "optimizer and EMA": _optimizer(work)}
    phases |= {link.name: link.seconds for link in links}
    changing = moved_bytes(work) / _host_link_bytes_per_s(work)
    if changing:
        phases["turns"] = changing
    merging = _merging(work)
    if merging:
        phases["merging the adapter"] = merging
    busy = {part: [link.seconds for link in links if link.during is part] for part in During}
    sampling = phases.get("prefill", 0.0) + phases.get("decode", 0.0)
    scoring = phases.get("teacher forward", 0.0) + sum(busy[During.SCORING])
    learning = phases["learner forward and backward"] + phases["optimizer and EMA"] + sum(busy[During.LEARNING])
    publishing = max(busy[During.PUBLISHING], default=0.0)  # to both roles at once
    on_cpu = work.cfg.cluster.num_gpus == 0
    together = not on_cpu and not work.cfg.cluster.turns  # on a CPU both share the cores
    producing = max(sampling, scoring) if together else sampling + scoring
    apart = work.cfg.max_staleness > 0 and not on_cpu
    step = (max(producing, learning) if apart else producing + learning) + publishing + merging + changing
    return StepSeconds(phases=phases, step=step)


def _prefill(work: Workload) -> float:
    tokens = work.cfg.batch_size * work.lengths.prompt
    flops = forward_flops(work.shape, tokens, context=(work.lengths.prompt + 1) / 2, head_rows=work.cfg.batch_size)
    return flops / _flops_per_s(work, "rollout", work.cfg.model.dtype)


def _decode(work: Workload) -> float:
    """Every token of a wave of completions reads all weights and the cache so far; waves follow each other."""
    placement, shape, lengths = work.cfg.cluster.rollout, work.shape, work.lengths
    in_engine = -(-work.cfg.batch_size // placement.num_workers)
    wave = min(in_engine, work.cfg.rollout.max_concurrent, max(1, cached_sequences(work)))
    context = lengths.prompt + (lengths.completion + 1) / 2
    read = weight_bytes(shape, work.worker_element_bytes)
    read_cache = wave * context * kv_cache_bytes_per_token(shape, work.worker_element_bytes)
    devices = _devices(work, "rollout") / placement.num_workers
    reading = (read + read_cache) / (devices * _memory_bytes_per_s(work))
    flops = forward_flops(shape, wave, context=context, head_rows=wave)
    computing = flops * placement.num_workers / _flops_per_s(work, "rollout", work.cfg.model.dtype)
    return math.ceil(in_engine / wave) * lengths.completion * max(reading, computing)


def _teacher(work: Workload) -> float:
    length = work.lengths.teacher_prompt + work.lengths.completion
    flops = forward_flops(
        work.shape,
        work.cfg.batch_size * length,
        context=(length + 1) / 2,
        head_rows=work.cfg.batch_size * work.lengths.completion,
    )
    return flops / _flops_per_s(work, "teacher", work.cfg.model.dtype)


def _learner(work: Workload) -> float:
    """The divergence needs the teacher's logits as well, of which one product is made from hidden states."""
    rows = work.cfg.batch_size * work.lengths.completion
    flops = training_flops(
        work.shape,
        work.cfg.batch_size * work.sequence_tokens,
        context=(work.sequence_tokens + 1) / 2,
        head_rows=rows,
        checkpointing=work.cfg.learner.gradient_checkpointing,
        frozen=work.cfg.model.adapter.is_on,
    )
    if "teacher" in work.roles:
        flops += forward_flops(work.shape, 0, context=0, head_rows=rows)
    return flops / _flops_per_s(work, "learner", work.cfg.learner.precision)


def _optimizer(work: Workload) -> float:
    """Reads and writes masters, moments and average, and reads the gradients, each rank its part."""
    per_parameter = 2 * (FP32_BYTES + ADAMW_BYTES_PER_PARAMETER + FP32_BYTES * work.weights.keeps_average) + FP32_BYTES
    ranks = work.cfg.cluster.learner.num_workers if work.cfg.learner.zero_stage else 1
    num_bytes = work.num_trained * per_parameter / ranks
    if work.cfg.learner.offload and work.cfg.cluster.learner.device == "cuda":
        sent = 2 * work.learner_element_bytes * work.num_trained / ranks  # gradients there, new weights back
        on_a_node = min(ranks, work.cfg.cluster.gpus_per_node)  # ranks that share its memory
        return on_a_node * num_bytes / _host_memory_bytes_per_s(work) + sent / _host_link_bytes_per_s(work)
    return num_bytes / _memory_bytes_per_s(work)


def _merging(work: Workload) -> float:
    """Of an adapter into its base, on one thread beside every engine; a GPU then reads all weights from the host."""
    if not work.cfg.model.adapter.is_on or "rollout" not in work.roles:
        return 0.0
    merging = MERGING_S[work.cfg.model.dtype] * num_target_elements(work.shape, work.cfg.model.adapter)
    if work.cfg.cluster.rollout.device == "cpu":
        return merging
    return merging + weight_bytes(work.shape, work.worker_element_bytes) / _host_link_bytes_per_s(work)


def _devices(work: Workload, role: str) -> float:
    """GPUs that compute for a role, or nodes whose CPUs do; roles that share one take turns."""
    placement = work.cfg.cluster.placements()[role]
    if placement.device == "cpu":
        return work.cfg.cluster.num_nodes
    return max(1.0, placement.num_workers * placement.gpus_per_worker)


def _flops_per_s(work: Workload, role: str, precision: Precision) -> float:
    hardware = work.cfg.cluster.hardware
    peak = hardware.tflops_bf16 if precision is Precision.BFLOAT16 else hardware.tflops_fp32
    return _devices(work, role) * peak * TERA * hardware.attainable_share


def _memory_bytes_per_s(work: Workload) -> float:
    hardware = work.cfg.cluster.hardware
    return hardware.memory_gb_per_s * GIGA * hardware.attainable_share


def _host_memory_bytes_per_s(work: Workload) -> float:
    hardware = work.cfg.cluster.hardware
    return hardware.host_memory_gb_per_s * GIGA * hardware.attainable_share


def _host_link_bytes_per_s(work: Workload) -> float:
    hardware = work.cfg.cluster.hardware
    return hardware.host_gb_per_s * GIGA * hardware.attainable_share
