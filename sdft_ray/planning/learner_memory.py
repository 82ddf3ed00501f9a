"""Bytes of one learner rank, on its device: what it holds all the time, and what its phases need besides.

Legend as in `memory.py`, which adds them up.
"""

from dataclasses import replace

from sdft_ray.config import Payload, Target
from sdft_ray.distill.fused_loss import CHUNK_ELEMENTS
from sdft_ray.models.arithmetic import ADAMW_BYTES_PER_PARAMETER, FP32_BYTES, activation_bytes, sdpa_bytes
from sdft_ray.planning.workload import Workload
from sdft_ray.weights.buckets import BUCKET_ELEMENTS
from sdft_ray.weights.channel import WeightKind

DEEPSPEED_BUCKET_ELEMENTS = 500_000_000  # its defaults for reducing gradients and for gathering weights
DEEPSPEED_LIVE_ELEMENTS = 1_000_000_000  # weights that ZeRO 3 keeps whole at a time
CHUNK_BUFFERS = 4  # [n, V] fp32 of a chunk: both sides' logprobs, probabilities, and the logits they are made of


def learner_held(work: Workload) -> dict[str, float]:
    """Bytes that one rank holds all the time, by what they are."""
    device, shape, cfg = work.cfg.cluster.learner.device, work.shape, work.cfg.learner
    width, trained = work.learner_element_bytes, work.num_trained
    ranks, stage = work.cfg.cluster.learner.num_workers, cfg.zero_stage
    gradient_width = FP32_BYTES if stage else width
    held = {
        "weights": width * _whole_network(work) / (ranks if stage == 3 else 1),
        "gradients": gradient_width * trained / (ranks if stage >= 2 else 1),
        **optimizer_bytes(work),
        "teacher heads": teacher_heads(work),
        "publications": _copies_published(work) * work.worker_element_bytes,
    }
    if cfg.offload and device == "cuda":  # where they are reduced, bucket by bucket, and leave at once
        for name in ("gradients", *optimizer_bytes(work)):
            del held[name]
        held["gradient on its way"] = float(shape.head_parameters * width)  # a buffer for the largest parameter's
    return held


def learner_phases(work: Workload) -> dict[str, float]:
    """Bytes that one rank needs besides, one phase at a time."""
    shape, width = work.shape, work.learner_element_bytes
    whole = min(_whole_network(work), DEEPSPEED_LIVE_ELEMENTS) * width if work.cfg.learner.zero_stage == 3 else 0
    logits = work.microbatch_samples * work.lengths.completion * shape.vocab_size
    chunk = CHUNK_BUFFERS * min(CHUNK_ELEMENTS[work.cfg.cluster.learner.device], logits) * FP32_BYTES
    if work.cfg.method.target is Target.TEACHER and work.cfg.teacher.payload is Payload.LOGITS:
        chunk += logits * FP32_BYTES
    return {
        "forward and backward": _activations(work) + chunk + _head_gradient(work, logits) + whole + _reduction(work),
        "optimizer step": _step_buffers(work),
        "publishing": bucket_elements(work) * (FP32_BYTES + work.worker_element_bytes),
    }


def _whole_network(work: Workload) -> int:
    """Elements of the network, an adapter's among them."""
    return work.shape.num_parameters + (work.num_trained if work.cfg.model.adapter.is_on else 0)


def optimizer_bytes(work: Workload) -> dict[str, float]:
    """Of one rank: what an optimizer step reads and writes beside the gradient, on whichever device."""
    ranks = work.cfg.cluster.learner.num_workers
    stage, trained = work.cfg.learner.zero_stage, work.num_trained
    return {
        "fp32 masters": FP32_BYTES * trained / ranks if stage else 0.0,
        "AdamW moments": ADAMW_BYTES_PER_PARAMETER * trained / (ranks if stage else 1),
        "EMA": _average(work),
    }


def _average(work: Workload) -> float:
    """Cut up like the weights; an adapter's is whole on every rank."""
    if not work.weights.keeps_average:
        return 0.0
    ranks = 1 if work.cfg.model.adapter.is_on else work.cfg.cluster.learner.num_workers
    return FP32_BYTES * work.num_published(WeightKind.EMA) / ranks


def _head_gradient(work: Workload, logits: int) -> int:
    """What is kept until the backward pass: the gradient itself, or, where it has a place, that on the logits."""
    if work.cfg.model.adapter.is_on:  # which leaves the head as it is
        return 0
    kept = work.shape.head_parameters
    if work.weights.whole_masters:
        kept = min(kept, logits)
    return kept * FP32_BYTES


def _copies_published(work: Workload) -> int:
    """Elements that a rank on a CPU maps beside its own, for the workers to read.

    What it keeps whole, in the workers' dtype, lies there itself.
    """
    if work.cfg.cluster.learner.device != "cpu":
        return 0
    return sum(map(work.num_published, set(work.weights.published) - work.weights.masters_in_place))


def _activations(work: Workload) -> int:
    """Of the largest microbatch."""
    cfg, shape, width = work.cfg.learner, work.shape, work.learner_element_bytes
    num_tokens = work.microbatch_samples * work.sequence_tokens
    if work.cfg.model.adapter.is_on:  # what an adapter reads is kept, which lean layers make again
        shape = replace(shape, lean=False)
    kept = activation_bytes(shape, num_tokens, width, checkpointing=cfg.gradient_checkpointing)
    if work.cfg.model.attention == "sdpa" and work.microbatch_samples > 1:
        masks = sdpa_bytes(shape, num_tokens, width)
        kept += masks // shape.num_layers if cfg.gradient_checkpointing else masks
    return kept


def _reduction(work: Workload) -> int:
    """What ZeRO copies gradients to while they are added up over the ranks, one bucket at a time.

    Stage 3 lays them out anew by their owners. On a GPU a bucket is allocated whole; gloo adds up in a copy.
    """
    stage, placement = work.cfg.learner.zero_stage, work.cfg.cluster.learner
    if stage == 0:
        return 0
    filled = min(work.num_trained, DEEPSPEED_BUCKET_ELEMENTS)
    bucket = filled if placement.device == "cpu" else DEEPSPEED_BUCKET_ELEMENTS
    copies = (placement.num_workers > 1) * ((stage == 3) + (placement.device == "cpu"))
    return (bucket + copies * filled) * work.learner_element_bytes


def _step_buffers(work: Workload) -> float:
    """AdamW makes two temporary tensors as large as what it updates, one parameter or ZeRO's flat partition.

    The latter's gradient is flattened for it, too.
    """
    if work.cfg.learner.zero_stage == 0:
        return 2 * FP32_BYTES * min(work.shape.head_parameters, work.num_trained)
    if work.cfg.learner.offload and work.cfg.cluster.learner.device == "cuda":
        return 0.0
    elements = work.num_trained / work.cfg.cluster.learner.num_workers
    return 3 * FP32_BYTES * min(elements, DEEPSPEED_LIVE_ELEMENTS)


def teacher_heads(work: Workload) -> int:
    """One for each version that samples of one batch may have been scored with, and that of the initial weights."""
    cfg, bytes_each = work.cfg, work.shape.head_parameters * work.worker_element_bytes
    if cfg.method.target is not Target.TEACHER or cfg.teacher.payload is not Payload.HIDDEN:
        return 0
    # In place, a head is a view of the average, or of the student.
    versions = 0 if work.weights.heads_in_place else cfg.max_staleness + 1
    return (versions + work.weights.teachers_keep_initial) * bytes_each


def bucket_elements(work: Workload) -> int:
    """Of the largest bucket of a publication: a parameter larger than a bucket has its own."""
    return min(max(BUCKET_ELEMENTS, work.shape.head_parameters), work.num_trained)
