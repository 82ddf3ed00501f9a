"""The payload a teacher worker sends for one completion.

Legend: T completion tokens, R rows of the head, V vocabulary entries that count, V <= R.
"""

import torch

from sdft_ray.config import Precision
from sdft_ray.records import LogitsPayload
from sdft_ray.tensors import to_array

PAYLOAD_DTYPE = {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16}


def pack_logits(logits: torch.Tensor, num_tokens: int, precision: Precision) -> LogitsPayload:
    """The logits [T, R] of one completion as a payload [T, V], V = `num_tokens`.

    Always a copy: a view would keep the logits of the whole batch alive as long as one of its payloads lives.
    """
    rows = logits.detach()[:, :num_tokens]
    packed = torch.empty(rows.shape, dtype=PAYLOAD_DTYPE[precision])
    return LogitsPayload(logits=to_array(packed.copy_(rows)))
