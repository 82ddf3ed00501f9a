"""The roofline of the learner: the matrix products of its weights at the rate of a plain matrix product.

The rate is measured on the rank's own device, with its threads and its precision, between the start and the first
step, when all roles have started and none has anything to do. While they start, it would come out low.
"""

import math
import time

import torch

from sdft_ray.records import MatmulSeconds
from sdft_ray.weights.fragments import Shapes

PRODUCT_SIZE = {"cpu": 512, "cuda": 8192}  # milliseconds, where the processor has instructions for the precision
NUM_PRODUCTS = 8  # of which the fastest counts
ENOUGH_S = 0.5  # fewer products do where one takes seconds, as in bf16 on a CPU that has no instructions for it
FORWARD_AND_BACKWARD = 3  # a product forward, and backward one with the inputs and one with the weights
FROZEN = 2  # without the gradient of the weights


def matmul_seconds(
    shapes: Shapes, head: tuple[int, ...], flops_per_s: float, *, trains_all: bool = True
) -> MatmulSeconds:
    """The least time forward and backward can take; attention's own products are left out, so it is a little low.

    Args:
        shapes: of all parameters of the network, tied ones once.
        head: the shape [R, H] of the output head's weight, one of them.
        flops_per_s: of a plain matrix product.
        trains_all: whether every weight gets a gradient; beside an adapter the network's own do not.
    """
    # What an embedding holds is looked up, not multiplied: only an untied one is among them, as large as the head.
    elements = sum(math.prod(shape) for _, shape in shapes if len(shape) == 2 and shape != head)
    element_s = 2 * (FORWARD_AND_BACKWARD if trains_all else FROZEN) / flops_per_s
    return MatmulSeconds(per_token=elements * element_s, per_head_row=math.prod(head) * element_s)


def measure_matmul(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second [FLOP/s] of a product of two large square matrices."""
    size = PRODUCT_SIZE[device.type]
    generator = torch.Generator(device).manual_seed(0)  # of its own: the global one is the training's
    left, right = (torch.randn(size, size, device=device, dtype=dtype, generator=generator) for _ in range(2))
    fastest = math.inf
    begun = time.perf_counter()
    for _ in range(NUM_PRODUCTS):
        started = time.perf_counter()
        if started - begun > ENOUGH_S:
            break
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest
