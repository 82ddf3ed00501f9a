"""Bytes that one optimizer step sends over every link, and how long they take. Nothing passes through the driver."""

from dataclasses import dataclass
from enum import Enum, auto

from sdft_ray.config import CompletionSource, Payload
from sdft_ray.models.arithmetic import FP32_BYTES, NetworkShape, weight_bytes
from sdft_ray.planning.workload import ELEMENT_BYTES, Workload
from sdft_ray.weights.channel import WeightKind

GIGA = 1e9
ID_BYTES = 4  # of a token of a TOPK payload


class During(Enum):
    """The part of a step a link is busy in."""

    SCORING = auto()
    LEARNING = auto()
    PUBLISHING = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """What flows from one role to another in a step."""

    name: str
    during: During
    step_bytes: float  # over all workers together
    seconds: float  # for the worker with the most to send or to receive


def payload_bytes_per_token(kind: Payload, shape: NetworkShape, element_bytes: int, top_k: int) -> int:
    """Bytes of one completion token's payload.

    Args:
        kind: what the teacher worker sends.
        shape: of the teacher.
        element_bytes: of hidden states and logits; top-k logprobs are fp32.
        top_k: tokens of a TOPK payload, beside which the tail and the written token have a logprob each.
    """
    if kind is Payload.HIDDEN:
        return shape.hidden_size * element_bytes
    if kind is Payload.LOGITS:
        return shape.vocab_size * element_bytes
    return top_k * (ID_BYTES + FP32_BYTES) + 2 * FP32_BYTES


def payload_kinds(work: Workload) -> dict[str, int]:
    """Bytes per completion token of every kind of payload."""
    cfg = work.cfg.teacher
    width = ELEMENT_BYTES[cfg.payload_precision]
    return {kind.name: payload_bytes_per_token(kind, work.shape, width, cfg.top_k) for kind in Payload}


def step_traffic(work: Workload) -> list[Link]:
    """Every link of the run."""
    links = []
    if "teacher" in work.roles:
        links.append(_payloads(work))
    if "rollout" in work.roles and work.cfg.method.completion is CompletionSource.STUDENT:
        links.append(_weights(work, "rollout", WeightKind.STUDENT))
    if "teacher" in work.roles and work.weights.teacher_kind is not None:
        averaged = WeightKind.EMA in work.weights.published
        links.append(_weights(work, "teacher", WeightKind.EMA if averaged else WeightKind.STUDENT))
    if work.cfg.cluster.learner.num_workers > 1:
        links.append(_between_ranks(work))
    return links


def _payloads(work: Workload) -> Link:
    per_token = payload_kinds(work)[work.cfg.teacher.payload.name]
    total = work.cfg.batch_size * work.lengths.completion * per_token
    busiest = min(work.cfg.cluster.teacher.num_workers, work.cfg.cluster.learner.num_workers)
    return Link(
        name=f"teacher -> learner: {work.cfg.teacher.payload.name} payloads",
        during=During.SCORING,
        step_bytes=total,
        seconds=total / busiest / _bandwidth(work, through_host=True),
    )


def _weights(work: Workload, role: str, kind: WeightKind) -> Link:
    """Rank 0 writes them once into its host's store; every worker reads all of them."""
    size = work.num_published(kind) * work.worker_element_bytes
    what = "averaged weights" if kind is WeightKind.EMA else "student weights"
    num_workers = work.cfg.cluster.placements()[role].num_workers
    return Link(
        name=f"learner -> {role}: {what}",
        during=During.PUBLISHING,
        step_bytes=size * num_workers,
        seconds=2 * size / _bandwidth(work, through_host=True),
    )


def _between_ranks(work: Workload) -> Link:
    """Gradients, the weights that ZeRO has cut up, and the fragments of a publication, in rings.

    Of what n ranks reduce to parts or gather from parts, each of them sends (n - 1) / n.
    """
    stage, num_ranks = work.cfg.learner.zero_stage, work.cfg.cluster.learner.num_workers
    weights = weight_bytes(work.shape, work.learner_element_bytes)
    trained = work.num_trained * work.learner_element_bytes
    if stage == 3:  # gathered for the forward and for the backward pass, gradients to their owners
        passes = work.num_microbatches * (2 * weights + trained)
    elif stage == 2:  # gradients to their owners, and the new weights to everybody
        passes = (work.num_microbatches + 1) * trained
    else:  # gradients to everybody; under stage 1 to their owners, and the new weights to everybody
        passes = 2 * trained
    publications = sum(map(work.num_published, work.weights.published)) * FP32_BYTES
    per_rank = (passes + publications) * (num_ranks - 1) / num_ranks
    return Link(
        name="between learner ranks: gradients and weights",
        during=During.LEARNING,
        step_bytes=per_rank * num_ranks,
        seconds=per_rank / _bandwidth(work, through_host=False),
    )


def _bandwidth(work: Workload, *, through_host: bool) -> float:
    """Attainable bytes per second of a worker's link."""
    hardware = work.cfg.cluster.hardware
    slowest = hardware.host_gb_per_s if through_host else hardware.intra_node_gb_per_s
    if work.cfg.cluster.num_nodes > 1:
        slowest = min(slowest, hardware.inter_node_gb_per_s)
    return slowest * GIGA * hardware.attainable_share
