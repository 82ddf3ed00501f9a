"""Writes docs/scaling.md: what the planner predicts for larger models on 8 to 512 GPUs.

Called as `python -m sdft_ray.planning.scaling`. Of the layouts that are tried for each number of GPUs, the one with the
most samples per second is shown.
"""

import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from sdft_ray.config import (
    ClusterConfig,
    HardwareConfig,
    LearnerConfig,
    ModelConfig,
    PlanConfig,
    Precision,
    RolePlacement,
    RolloutConfig,
    RunConfig,
    TeacherBackend,
    TeacherConfig,
)
from sdft_ray.models.arithmetic import weight_bytes
from sdft_ray.planning.memory import GIB, USABLE_SHARE, RoleMemory, object_store_gib, role_memory
from sdft_ray.planning.seconds import step_seconds
from sdft_ray.planning.shapes import KNOWN_SHAPES
from sdft_ray.planning.traffic import GIGA, step_traffic
from sdft_ray.planning.workload import ELEMENT_BYTES, Lengths, Workload

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "scaling.md"
HARDWARE = HardwareConfig(**yaml.safe_load((ROOT / "conf" / "cluster" / "4x8xH100.yaml").read_text())["hardware"])
ROLES = ("rollout", "teacher", "learner")
GPUS = (8, 16, 32, 64, 128, 256, 512)
GPUS_PER_NODE = 8
SAMPLES_PER_RANK = 8
LENGTHS = Lengths(prompt=512, teacher_prompt=1536, completion=1024, origin="assumed")

PARAGRAPHS = [
    "# Scaling: predictions",
    f"""**Nothing on this page was run.** `python -m sdft_ray.planning.scaling` computes it with the planner behind
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
    f"""The GPUs are divided among rollout engines and teachers (number x GPUs of each) and learner ranks. Of the
    divisions into eighths, the one with the most samples per second among those that fit is shown. A teacher whose
    weights would fill more than half of a GPU is spread over several (`teacher.backend=VLLM`, which gives what is left
    to its cache). GiB are those of one GPU of the role, of which {USABLE_SHARE * HARDWARE.memory_gib:.1f} can be used;
    the store is Ray's on the node of learner rank 0, to be set as `cluster.object_store_gib`.""",
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
    for model in KNOWN_SHAPES:
        rows = [row_of(model, num_gpus) for num_gpus in GPUS]
        sections.append("\n".join([f"## {model}\n", HEADER, "|" + " --- |" * HEADER.count(" | ") + " --- |", *rows]))
    return "\n\n".join(sections) + "\n"


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
    work = max(fitting, key=lambda work: work.cfg.batch_size / step_seconds(work, step_traffic(work)).step)
    links = step_traffic(work)
    seconds = step_seconds(work, links)
    cluster = work.cfg.cluster
    memory = {role.role: role for role in role_memory(work)}
    cells = [
        str(num_gpus),
        f"{cluster.rollout.num_workers} x {cluster.rollout.tensor_parallel_size}",
        f"{cluster.teacher.num_workers} x {cluster.teacher.tensor_parallel_size}",
        str(cluster.learner.num_workers),
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
    """Divisions of the GPUs among the roles, in eighths, for both ZeRO stages and each tensor parallel size."""
    teacher_gpus = _teacher_gpus(model)
    for learner, teacher in itertools.product(range(2, 7), range(1, 6)):
        shares = [share * num_gpus // 8 for share in (8 - learner - teacher, teacher, learner)]
        for engine_gpus, stage in itertools.product((1, 2, 4, 8), (2, 3)):
            if shares[0] <= 0 or shares[0] % engine_gpus or shares[1] % teacher_gpus:
                continue
            placements = [
                RolePlacement(num_workers=share // gpus, gpus_per_worker=gpus)
                for share, gpus in zip(shares, (engine_gpus, teacher_gpus, 1), strict=True)
            ]
            yield Workload(
                cfg=_config(model, num_gpus, placements, stage),
                shape=KNOWN_SHAPES[model],
                lengths=LENGTHS,
                roles=ROLES,
            )


def _teacher_gpus(model: str) -> int:
    """GPUs of a teacher: a power of two over which its weights fill at most half of each."""
    halves = weight_bytes(KNOWN_SHAPES[model], ELEMENT_BYTES[Precision.BFLOAT16]) / (HARDWARE.memory_gib / 2 * GIB)
    return 2 ** max(0, math.ceil(math.log2(halves)))


def _config(model: str, num_gpus: int, placements: Sequence[RolePlacement], zero_stage: int) -> RunConfig:
    rollout, teacher, learner = placements
    return RunConfig(
        batch_size=SAMPLES_PER_RANK * learner.num_workers,
        max_staleness=1,
        cluster=ClusterConfig(
            num_nodes=num_gpus // GPUS_PER_NODE,
            gpus_per_node=GPUS_PER_NODE,
            hardware=HARDWARE,
            rollout=rollout,
            teacher=teacher,
            learner=learner,
        ),
        model=ModelConfig(dtype=Precision.BFLOAT16, attention="flash_attention_2"),
        teacher=TeacherConfig(
            backend=TeacherBackend.VLLM if teacher.gpus_per_worker > 1 else TeacherBackend.TRANSFORMERS
        ),
        rollout=RolloutConfig(max_new_tokens=LENGTHS.completion),
        learner=LearnerConfig(precision=Precision.BFLOAT16, gradient_checkpointing=True, zero_stage=zero_stage),
        plan=PlanConfig(model=model),
    )


def _tightest(work: Workload) -> RoleMemory:
    return max(role_memory(work), key=lambda memory: memory.total_gib / memory.limit_gib)


if __name__ == "__main__":
    main()
