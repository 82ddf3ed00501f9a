"""The part of docs/scaling.md on one GPU, whose roles take turns: what makes each model fit, and what it takes."""

import textwrap
from pathlib import Path
from typing import Any

import yaml

from sdft_ray.config import (
    AdapterConfig,
    AdapterKind,
    ClusterConfig,
    HardwareConfig,
    LearnerConfig,
    ModelConfig,
    Precision,
    RolloutConfig,
    RunConfig,
    Saving,
)
from sdft_ray.planning.host import host_memory
from sdft_ray.planning.memory import role_memory
from sdft_ray.planning.proposals import in_turns
from sdft_ray.planning.shapes import known_shape
from sdft_ray.planning.workload import Lengths, Workload

PRESETS = Path(__file__).resolve().parents[2] / "conf" / "cluster"
MODELS = ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b", "qwen2.5-14b")
ROLES = ("rollout", "teacher", "learner")
HEADER = "| model | settings besides | teacher GiB | learner GiB | host GiB | step s |"
H200 = {"name": "H200 141 GB SXM", "memory_gib": 141, "memory_gb_per_s": 4800}  # what differs from an H100, by NVIDIA

INTRODUCTION = """Full fine-tuning, and adapters of rank 8, on one GPU with `cluster.turns=true`: each role fills the
GPU in its turn, and the others sleep in host memory (docs/one-gpu.md). {batch_size} samples a step,
`max_staleness=0`, all else as above. An engine fills what is left with its cache, so its GiB say
nothing. Host GiB are those of what sleeps, of an offloaded optimizer and of publications, with
`learner.saving=BLOCKING`. Of the host nothing is measured: its memory is taken to be read and written
at {host:g} GB/s, of which {share:.0%} are attainable."""


def sections(lengths: Lengths, batch_size: int) -> list[str]:
    """Of the page, in Markdown."""
    hardware = hardware_of_one_gpu()
    host, share = hardware[0].host_memory_gb_per_s, hardware[0].attainable_share
    text = INTRODUCTION.format(batch_size=batch_size, host=host, share=share)
    pages = ["## One GPU in turns", textwrap.fill(" ".join(text.split()), 120)]
    for one in hardware:
        adapters = (AdapterConfig(), AdapterConfig(kind=AdapterKind.LORA))
        rows = [row_of(model, one, lengths, batch_size, adapter) for model in MODELS for adapter in adapters]
        columns = "|" + " --- |" * (HEADER.count("|") - 1)
        pages.append("\n".join([f"### {one.name}\n", HEADER, columns, *rows]))
    return pages


def hardware_of_one_gpu() -> list[HardwareConfig]:
    """Of the presets with one GPU, and of an H200."""
    ours = [read_hardware(name) for name in ("1x24GB", "1x40GB", "1xH100")]
    return [HardwareConfig(**one) for one in (*ours, ours[-1] | H200)]


def read_hardware(preset: str) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())
    hardware: dict[str, Any] = settings.get("cluster", settings)["hardware"]
    return hardware


def row_of(model: str, hardware: HardwareConfig, lengths: Lengths, batch_size: int, adapter: AdapterConfig) -> str:
    """What a model takes on one GPU, as a row of the table."""
    cfg = RunConfig(
        batch_size=batch_size,
        cluster=ClusterConfig(gpus_per_node=1, object_store_gib=16, hardware=hardware),
        model=ModelConfig(dtype=Precision.BFLOAT16, attention="flash_attention_2", adapter=adapter),
        rollout=RolloutConfig(max_new_tokens=lengths.completion),
        learner=LearnerConfig(precision=Precision.BFLOAT16, gradient_checkpointing=True, saving=Saving.BLOCKING),
    )
    work = Workload(cfg=cfg, shape=known_shape(model), lengths=lengths, roles=ROLES)
    name = f"{model}, adapter" if adapter.is_on else model
    if (proposal := in_turns(work)) is None:
        return f"| {name} | does not fit |" + " |" * 4
    memory = {role.role: role.total_gib for role in role_memory(proposal.work)}
    overrides = " ".join(f"`{one}`" for one in proposal.overrides)
    cells = [name, overrides, *(f"{memory[role]:.0f}" for role in ("teacher", "learner"))]
    return f"| {' | '.join([*cells, f'{sum(host_memory(proposal.work).values()):.0f}', f'{proposal.step_s:.1f}'])} |"
