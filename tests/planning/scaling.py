"""Writes docs/scaling.md: what the planner predicts for the Qwen2.5 models on 1 to 512 GPUs.

Called as `python -m tests.planning.scaling`. Of the layouts that are tried for each number of GPUs, the one with the
most samples per second is shown.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from sdft_ray.config import (
    ClusterConfig,
    HardwareConfig,
    LearnerConfig,
    ModelConfig,
    PlanConfig,
    Precision,
    RolloutConfig,
    RunConfig,
)
from sdft_ray.planning.layouts import layouts
from sdft_ray.planning.memory import USABLE_SHARE, RoleMemory, object_store_gib, role_memory
from sdft_ray.planning.proposals import fullest, with_full_cache, with_settings
from sdft_ray.planning.seconds import step_seconds
from sdft_ray.planning.shapes import KNOWN_MODELS, known_shape
from sdft_ray.planning.traffic import GIGA, step_traffic
from sdft_ray.planning.workload import Lengths, Workload
from tests.planning import one_gpu

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "scaling.md"
HARDWARE = HardwareConfig(**yaml.safe_load((ROOT / "conf" / "cluster" / "4x8xH100.yaml").read_text())["hardware"])
ROLES = ("rollout", "teacher", "learner")
MODELS = [name for name in KNOWN_MODELS if name.startswith("qwen2.5")]
GPUS = (1, 8, 16, 32, 64, 128, 256, 512)
GPUS_PER_NODE = 8
SAMPLES_PER_RANK = 8
LENGTHS = Lengths(prompt=512, teacher_prompt=1536, completion=1024, origin="assumed")

PARAGRAPHS = [
    "# Scaling: predictions",
    f"""**Nothing on this page was run.** `python -m tests.planning.scaling` computes it with the planner behind
    `mode=plan`, from the shapes of the Qwen2.5 models and the vendor's peak figures of an {HARDWARE.name}, of which
    {HARDWARE.attainable_share:.0%} are taken to be attainable. It shows where memory and links become the limit, not
    how fast a run will be.""",
    """For settings of your own: `python -m sdft_ray.launch +cluster=8xA100 mode=plan plan.model=qwen2.5-7b` prints the
    memory of every role, the bytes on every link, the seconds of every phase, and what to change if it does not fit.
    Without `plan.model` it plans for `model.path`, of which a folder with a config.json is enough.""",
    f"""Assumed: `sdft` with HIDDEN payloads and `max_staleness=1`; {SAMPLES_PER_RANK} samples a step for each learner
    rank; prompts of {LENGTHS.prompt} tokens, teacher prompts of {LENGTHS.teacher_prompt}, completions of
    {LENGTHS.completion}; weights and passes in bf16, masters, moments and moving average in fp32; gradient
    checkpointing, flash attention, microbatches of 8192 tokens; ZeRO 2 or 3.""",
    f"""The GPUs are divided among rollout engines and teachers (number x GPUs of each) and learner ranks; one GPU is
    divided in twentieths. Of the divisions into eighths, the one with the most samples per second among those that fit
    is shown, of equals that with the most room left. A teacher on several GPUs is `teacher.backend=VLLM`, which gives
    what is left to its cache. GiB are those of one GPU of the role, of which
    {USABLE_SHARE * HARDWARE.memory_gib:.1f} can be used; the store is Ray's on the node of learner rank 0, to be set
    as `cluster.object_store_gib`. The last tables are of one GPU whose roles take turns.""",
]
HEADER = (
    "| GPUs | rollout | teacher | learner | ZeRO | teacher GiB | learner GiB | store GiB | payloads GB a step "
    "| step s | samples/s | bottleneck |"
)


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page())


def page() -> str:
    """The page in Markdown."""
    sections = [textwrap.fill(" ".join(paragraph.split()), 120) for paragraph in PARAGRAPHS]
    for model in MODELS:
        rows = [row_of(model, num_gpus) for num_gpus in GPUS]
        sections.append("\n".join([f"## {model}\n", HEADER, "|" + " --- |" * HEADER.count(" | ") + " --- |", *rows]))
    return "\n\n".join([*sections, *one_gpu.sections(LENGTHS, SAMPLES_PER_RANK)]) + "\n"


def row_of(model: str, num_gpus: int) -> str:
    """The best layout of a model on that many GPUs, as a row of the table."""
    layouts = list(_layouts(model, num_gpus))
    fitting = [work for work in layouts if _tightest(work).fits_in(_tightest(work).limit_gib)]
    if not fitting:
        reason = "too few GPUs for all roles"
        if layouts:
            tightest = min((_tightest(work) for work in layouts), key=lambda role: role.total_gib / role.limit_gib)
            reason = f"{tightest.role} needs {tightest.total_gib:.0f} GiB"
        return f"| {num_gpus} | does not fit: {reason} |" + " |" * 10
    work = max(fitting, key=lambda work: (float(f"{_samples_per_s(work):.3g}"), -fullest(work)))
    links = step_traffic(work)
    seconds = step_seconds(work, links)
    cluster = work.cfg.cluster
    memory = {role.role: role for role in role_memory(work)}
    cells = [
        str(num_gpus),
        *(f"{role.num_workers} x {role.gpus_per_worker:g}" for role in (cluster.rollout, cluster.teacher)),
        f"{cluster.learner.num_workers}" if num_gpus > 1 else f"1 x {cluster.learner.gpus_per_worker:g}",
        str(work.cfg.learner.zero_stage),
        f"{memory['teacher'].total_gib:.0f}",
        f"{memory['learner'].total_gib:.0f}",
        f"{object_store_gib(work):.0f}",
        f"{links[0].step_bytes / GIGA:.2f}",
        f"{seconds.step:.1f}",
        f"{work.cfg.batch_size / seconds.step:.1f}",
        seconds.bottleneck,
    ]
    return f"| {' | '.join(cells)} |"


def _layouts(model: str, num_gpus: int) -> Iterator[Workload]:
    """Divisions of the GPUs among the roles for both ZeRO stages, with as many samples as the ranks are to have."""
    gpus_per_node = min(num_gpus, GPUS_PER_NODE)
    cluster = ClusterConfig(num_nodes=num_gpus // gpus_per_node, gpus_per_node=gpus_per_node, hardware=HARDWARE)
    # As many samples as any division could need, so that none is left out for want of them.
    cfg = replace(_config(model, cluster), batch_size=SAMPLES_PER_RANK * num_gpus)
    work = Workload(cfg=cfg, shape=known_shape(model), lengths=LENGTHS, roles=ROLES)
    for layout in layouts(work, cluster.num_nodes):
        if layout["cluster.turns"]:  # has tables of its own
            continue
        batch_size = SAMPLES_PER_RANK * layout["cluster.learner.num_workers"]
        for stage in (2, 3) if num_gpus > 1 else (2,):
            changes = layout | {"batch_size": batch_size, "learner.zero_stage": stage}
            yield with_full_cache(replace(work, cfg=with_settings(cfg, changes)))


def _config(model: str, cluster: ClusterConfig) -> RunConfig:
    return RunConfig(
        max_staleness=1,
        cluster=cluster,
        model=ModelConfig(dtype=Precision.BFLOAT16, attention="flash_attention_2"),
        rollout=RolloutConfig(max_new_tokens=LENGTHS.completion),
        learner=LearnerConfig(precision=Precision.BFLOAT16, gradient_checkpointing=True),
        plan=PlanConfig(model=model),
    )


def _samples_per_s(work: Workload) -> float:
    return work.cfg.batch_size / step_seconds(work, step_traffic(work)).step


def _tightest(work: Workload) -> RoleMemory:
    return max(role_memory(work), key=lambda memory: memory.total_gib / memory.limit_gib)


if __name__ == "__main__":
    main()
