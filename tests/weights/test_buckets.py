"""Parameters to packed buckets and back."""

import math

import torch

from sdft_ray.records import Bucket
from sdft_ray.tensors import to_array
from sdft_ray.weights.buckets import bucket_elements, plan_buckets, unpack

SHAPES = [("embedding", (7, 3)), ("scale", ()), ("norm", (5,)), ("huge", (40, 2)), ("head", (3, 3, 2))]


def test_buckets_hold_every_parameter_once_in_order_within_their_size() -> None:
    plans = plan_buckets(SHAPES, max_elements=30)
    assert [(entry.name, entry.shape) for plan in plans for entry in plan] == SHAPES
    for plan in plans:
        assert bucket_elements(plan) <= 30 or len(plan) == 1
        ends = [entry.offset + math.prod(entry.shape) for entry in plan]
        assert [entry.offset for entry in plan] == [0, *ends[:-1]]


def test_a_parameter_larger_than_a_bucket_has_its_own() -> None:
    assert [[entry.name for entry in plan] for plan in plan_buckets(SHAPES, max_elements=30)] == [
        ["embedding", "scale", "norm"],
        ["huge"],
        ["head"],
    ]


def test_no_parameters_need_no_bucket() -> None:
    assert plan_buckets([]) == []


def test_parameters_come_back_as_they_were_packed() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        values = {name: torch.randn(shape).to(dtype) for name, shape in SHAPES}
        for plan in plan_buckets(SHAPES, max_elements=50):
            flat = torch.cat([values[entry.name].reshape(-1) for entry in plan])
            bucket = Bucket(dtype=str(dtype).removeprefix("torch."), entries=plan, array=None)
            for name, tensor in unpack(bucket, to_array(flat)):
                assert tensor.shape == values[name].shape
                assert torch.equal(tensor, values[name])
