"""How fast the learner could be: the matrix products of its weights at the rate of a plain matrix product.

The rate is measured on the rank's own device, with its threads and its precision, when it is first asked for: after the
first forward and backward pass, when a synchronous run's other roles are idle. While they start, it would come out low.
"""

import math
import time

import torch

from sdft_ray.weights.fragments import Shapes

PRODUCT_SIZE = {"cpu": 512, "cuda": 8192}  # milliseconds, where the processor has instructions for the precision
NUM_PRODUCTS = 8  # of which the fastest counts
ENOUGH_S = 0.5  # fewer products do where one takes seconds, as in bf16 on a CPU that has no instructions for it
FORWARD_AND_BACKWARD = 3  # a product forward, and backward one with the inputs and one with the weights


class MatmulBound:
    """The least time forward and backward can take; attention's own products are left out, so it is a little low."""

    def __init__(self, shapes: Shapes, head: tuple[int, ...], dtype: torch.dtype, device: torch.device):
        """Counts the elements.

        Args:
            shapes: of all parameters of the network, tied ones once.
            head: the shape [R, H] of the output head's weight, one of them.
            dtype: the network computes in.
            device: where it runs.
        """
        # What an embedding holds is looked up, not multiplied: only an untied one is among them, as large as the head.
        self._elements = sum(math.prod(shape) for _, shape in shapes if len(shape) == 2 and shape != head)
        self._head_elements = math.prod(head)
        self._device, self._dtype = device, dtype
        self._flops_per_s = 0.0

    def seconds(self, num_tokens: int, head_rows: int) -> float:
        """Of forward and backward over N tokens, of which `head_rows` go through the head."""
        if not self._flops_per_s:
            self._flops_per_s = measure_matmul(self._device, self._dtype)
        elements = num_tokens * self._elements + head_rows * self._head_elements
        return 2 * FORWARD_AND_BACKWARD * elements / self._flops_per_s


def measure_matmul(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second [FLOP/s] of a product of two large square matrices."""
    size = PRODUCT_SIZE[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
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
