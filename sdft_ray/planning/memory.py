"""Gibibytes of every role: on each GPU of a worker, or of a worker's processes where it computes on the CPU.

What is held all the time adds up; what a phase needs besides comes and goes, and the largest phase counts. Legend:
P parameters, n learner ranks, R x H the output head, N tokens of a microbatch, V vocabulary entries.
"""

from dataclasses import dataclass

from sdft_ray.config import Payload, RolloutConfig, TeacherBackend, TeacherConfig
from sdft_ray.models.arithmetic import (
    FP32_BYTES,
    inference_bytes,
    kv_cache_bytes_per_token,
    sdpa_bytes,
    weight_bytes,
)
from sdft_ray.planning.learner_memory import bucket_elements, learner_held, learner_phases, teacher_heads
from sdft_ray.planning.traffic import payload_kinds
from sdft_ray.planning.workload import ELEMENT_BYTES, Workload

GIB = 2**30

# Of a worker's GPU memory, what is left once the CUDA context, NCCL's buffers and the allocator's gaps have theirs.
USABLE_SHARE = 0.92

# What a process keeps on a GPU while its role sleeps: the CUDA context and its kernels. An assumption, not measured.
CONTEXT_GIB = 0.5
# The same of a vLLM engine, which keeps its CUDA graphs and workspaces: others have seen 1.1 to 2.1 of 7B and 8B.
ENGINE_CONTEXT_GIB = 2.0

# Resident memory of a CPU worker's processes before they hold a model: Python, torch, Ray, and what the role imports.
# Measured with a network of 0.1 million parameters; a rollout worker has two processes.
BARE_PROCESS_GIB = {"rollout": 1.34, "teacher": 0.51, "learner": 0.53}

VLLM_BATCH_TOKENS = 2048  # what the asynchronous engine of vLLM 0.32 takes into one forward pass by itself


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleMemory:
    """The memory of one worker of a role, on each of its devices."""

    role: str
    device: str  # "cpu" or "cuda"
    num_workers: int
    held: dict[str, float]  # GiB, all the time
    phases: dict[str, float]  # GiB besides; one phase at a time
    limit_gib: float  # what there is; on a CPU of the node, for all its workers together

    @property
    def total_gib(self) -> float:
        """The most that is in use at a time."""
        return sum(self.held.values()) + max(self.phases.values(), default=0.0)

    def fits_in(self, size_gib: float) -> bool:
        """Whether that much is enough; an engine's cache fills its limit up to the last rounding."""
        return self.total_gib <= size_gib * (1 + 1e-9)

    @property
    def largest_phase(self) -> str:
        """The phase that decides."""
        return max(self.phases, key=self.phases.__getitem__)


def role_memory(work: Workload) -> list[RoleMemory]:
    """Every role the run would start."""
    makers = {"rollout": _rollout, "teacher": _teacher, "learner": _learner}
    return [makers[role](work) for role in work.roles]


def object_store_gib(work: Workload) -> float:
    """What Ray's object store has to hold at a time: the payloads of the open samples, and what is published."""
    cfg = work.cfg
    published = 0
    if not work.weights.student_channel.reach.one_node:
        published = sum(map(work.num_published, work.weights.published)) * work.worker_element_bytes
    payloads = 0
    if "teacher" in work.roles:
        tokens = cfg.batch_size * (cfg.max_staleness + 1) * work.lengths.completion
        payloads = tokens * payload_kinds(work)[cfg.teacher.payload.name]
    return (published + payloads) / GIB


def cached_sequences(work: Workload) -> int:
    """Whole sequences that the KV cache of one engine holds."""
    sequence = work.sequence_tokens * kv_cache_bytes_per_token(work.shape, work.worker_element_bytes)
    cache_gib = _rollout(work).held["KV cache"] * work.cfg.cluster.rollout.tensor_parallel_size
    return int(cache_gib * GIB / sequence)


def kv_cache_gib_of_one_sequence(work: Workload) -> float:
    """The least that an engine on a device of others needs for its KV cache: vLLM refuses to start with less."""
    return work.sequence_tokens * kv_cache_bytes_per_token(work.shape, work.worker_element_bytes) / GIB


def _rollout(work: Workload) -> RoleMemory:
    cfg, shape = work.cfg.rollout, work.shape
    logits = min(cfg.max_concurrent, work.samples_per_worker("rollout")) * shape.vocab_size * FP32_BYTES
    memory = _engine(work, "rollout", cfg, batch_tokens=VLLM_BATCH_TOKENS, logits=2 * logits)
    if memory.device == "cpu" and work.cfg.model.adapter.is_on:  # in host memory, which on a GPU's node is not counted
        memory.held["merged weights"] = weight_bytes(shape, work.worker_element_bytes) / GIB
        memory.held["base of the targets"] = shape.matrix_elements * work.worker_element_bytes / GIB
    if memory.device == "cpu" and shape.tied_head:  # it is repacked, and the embedding needs the rows as they are
        memory.held["repacked head"] = shape.head_parameters * work.worker_element_bytes / GIB
    return memory


def _engine(
    work: Workload, role: str, cfg: RolloutConfig | TeacherConfig, *, batch_tokens: int, logits: int
) -> RoleMemory:
    """A vLLM engine over all GPUs of its worker, of which it takes what is left for its cache."""
    placement, shape, width = work.cfg.cluster.placements()[role], work.shape, work.worker_element_bytes
    parts, on_gpu = placement.tensor_parallel_size, placement.device == "cuda"
    weights = weight_bytes(shape, width) / parts
    limit = work.cfg.cluster.hardware.memory_gib
    if on_gpu:
        limit = min(limit * work.cfg.cluster.gpu_share(role) * cfg.gpu_memory_share, limit - asleep_gib(work, role))
    phases = {
        "forward pass": inference_bytes(shape, batch_tokens, width) / parts + logits,
        # On a CPU they are packed from a mapped file, matrix by matrix; networks that have to go through vLLM's own
        # reload hold a second set besides.
        "loading weights": float(bucket_elements(work) * width) if on_gpu else weights,
    }
    cache = cfg.kv_cache_gib * GIB
    if work.cfg.cluster.fills_device(role):  # it needs room for one whole sequence
        one_sequence = work.longest_sequence(role) * kv_cache_bytes_per_token(shape, width) / parts
        cache = max(one_sequence, limit * GIB - weights - max(phases.values()))
    return _in_gib(role, work, {"weights": weights, "KV cache": cache}, phases, limit)


def _teacher(work: Workload) -> RoleMemory:
    cfg, placement, shape = work.cfg.teacher, work.cfg.cluster.teacher, work.shape
    if cfg.backend is TeacherBackend.VLLM:
        return _engine(work, "teacher", cfg, batch_tokens=cfg.max_tokens_per_forward, logits=0)
    width, length = work.worker_element_bytes, work.longest_sequence("teacher")
    num_samples = max(1, min(work.samples_per_worker("teacher"), cfg.max_tokens_per_forward // length))
    forward = float(inference_bytes(shape, num_samples * length, width))
    if work.cfg.model.attention == "sdpa":
        forward += sdpa_bytes(shape, num_samples * length, width) / shape.num_layers
    row = shape.hidden_size if cfg.payload is Payload.HIDDEN else shape.vocab_size
    forward += num_samples * work.lengths.completion * row * (width + ELEMENT_BYTES[cfg.payload_precision])
    phases = {"forward pass": forward}
    if placement.device == "cpu":  # the whole file or publication is mapped
        phases["loading weights"] = 0 if work.weights.teachers_map else weight_bytes(shape, width)
    elif work.weights.teacher_kind is not None:
        phases["loading weights"] = bucket_elements(work) * width
    held = {"weights": float(weight_bytes(shape, width))}
    if work.weights.teachers_keep_initial and not work.cfg.model.adapter.is_on:
        held["initial weights, for rehearsal"] = weight_bytes(shape, width)
    return _in_gib("teacher", work, held, phases, _limit(work, "teacher"))


def _learner(work: Workload) -> RoleMemory:
    return _in_gib("learner", work, learner_held(work), learner_phases(work), _limit(work, "learner"))


def asleep_gib(work: Workload, awake: str) -> float:
    """What the roles that sleep leave on the GPU in the turn of `awake`."""
    if not work.cfg.cluster.turns:
        return 0.0
    engines = {"rollout"} | ({"teacher"} if work.cfg.teacher.backend is TeacherBackend.VLLM else set())
    others = [role for role in work.roles if role != awake]
    heads = teacher_heads(work) / GIB if "learner" in others else 0.0
    return sum(ENGINE_CONTEXT_GIB if role in engines else CONTEXT_GIB for role in others) + heads


def _limit(work: Workload, role: str) -> float:
    cluster = work.cfg.cluster
    if cluster.placements()[role].device == "cpu":
        return cluster.hardware.memory_gib
    return cluster.hardware.memory_gib * cluster.gpu_share(role) * USABLE_SHARE - asleep_gib(work, role)


def _in_gib(
    role: str, work: Workload, held: dict[str, float], phases: dict[str, float], limit_gib: float
) -> RoleMemory:
    placement = work.cfg.cluster.placements()[role]
    bare = {"processes": BARE_PROCESS_GIB[role] * GIB} if placement.device == "cpu" else {}
    return RoleMemory(
        role=role,
        device=placement.device,
        num_workers=placement.num_workers,
        held={name: size / GIB for name, size in (bare | held).items() if size},
        phases={name: size / GIB for name, size in phases.items() if size},
        limit_gib=limit_gib,
    )
