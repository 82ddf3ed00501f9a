"""Bytes on every link of a step."""

import pytest

from sdft_ray.config import Payload
from sdft_ray.planning.shapes import known_shape
from sdft_ray.planning.traffic import payload_bytes_per_token, step_traffic
from tests.planning.composed import IN_FP32, workload

WEIGHTS = 7_615_616_512 * 4


def bytes_of(start: str, *overrides: str) -> float:
    links = step_traffic(workload("+cluster=8xA100", *IN_FP32, *overrides))
    (link,) = [link for link in links if link.name.startswith(start)]
    return link.step_bytes


def test_payloads_have_the_published_sizes() -> None:
    shape = known_shape("qwen2.5-7b")
    sizes = {kind: payload_bytes_per_token(kind, shape, 2, 100) for kind in Payload}
    assert sizes == {Payload.HIDDEN: 7_168, Payload.LOGITS: 304_128, Payload.TOPK: 808}


def test_payload_bytes_are_those_of_all_completion_tokens() -> None:
    assert bytes_of("teacher -> learner", "batch_size=8") == 8 * 32 * 3584 * 4


def test_every_worker_gets_all_weights() -> None:
    assert bytes_of("learner -> rollout") == 2 * WEIGHTS
    assert bytes_of("learner -> teacher", "cluster.teacher.num_workers=1") == WEIGHTS


def test_a_frozen_teacher_gets_nothing() -> None:
    links = step_traffic(workload("+cluster=8xA100", *IN_FP32, "teacher.weights=FROZEN"))
    assert not [link for link in links if link.name.startswith("learner -> teacher")]


@pytest.mark.parametrize(("stage", "passes"), [(0, 2), (1, 2), (2, 2), (3, 3)])
def test_ranks_exchange_what_their_zero_stage_has_divided(stage: int, passes: int) -> None:
    """One microbatch; two publications of fp32 weights besides."""
    ranks = 4
    per_rank = (passes + 2) * WEIGHTS * (ranks - 1) / ranks
    assert bytes_of("between", f"learner.zero_stage={stage}") == pytest.approx(per_rank * ranks)


def test_a_single_rank_exchanges_nothing() -> None:
    links = step_traffic(workload("+cluster=8xA100", *IN_FP32, "cluster.learner.num_workers=1"))
    assert not [link for link in links if link.name.startswith("between")]


def test_between_nodes_the_slower_link_counts() -> None:
    one = step_traffic(workload("+cluster=8xA100", *IN_FP32))
    two = step_traffic(workload("+cluster=8xA100", *IN_FP32, "cluster.num_nodes=2"))
    ratios = [second.seconds / first.seconds for first, second in zip(one, two, strict=True)]
    assert ratios == pytest.approx([32 / 25, 32 / 25, 32 / 25, 300 / 25])
