"""Opens the payloads of a microbatch: the only place where the bulk of a teacher's scores is read."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import ray
import torch

from sdft_ray.distill.teacher_rows import HiddenRows, JoinedRows, LogitsRows, TailName, TeacherRows, TopKRows
from sdft_ray.learner.teacher_heads import TeacherHeads
from sdft_ray.records import HiddenPayload, LogitsPayload, Microbatch
from sdft_ray.tensors import to_tensor


def open_payloads(microbatch: Microbatch, heads: TeacherHeads, tail: TailName, device: torch.device) -> TeacherRows:
    """What the teacher says about the microbatch's tokens, on `device`.

    The rows are copies: the object store may free a payload as soon as its last handle is dropped.

    Raises:
        WeightVersionError: a payload of hidden states was made with weights whose head is not held.
    """
    payloads: list[Any] = ray.get(list(microbatch.payloads))

    def joined(arrays: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.cat([to_tensor(array) for array in arrays]).to(device)

    first = payloads[0]
    if isinstance(first, LogitsPayload):
        return LogitsRows(joined([payload.logits for payload in payloads]))
    if isinstance(first, HiddenPayload):
        parts = [
            HiddenRows(joined([payload.hidden for _, payload in group]), heads.of(version))
            for version, group in groupby(
                zip(microbatch.teacher_versions, payloads, strict=True), key=lambda pair: pair[0]
            )
        ]
        return parts[0] if len(parts) == 1 else JoinedRows(parts)
    return TopKRows(
        ids=joined([payload.ids for payload in payloads]).long(),
        logprobs=joined([payload.logprobs for payload in payloads]),
        tail_logprobs=joined([payload.tail_logprobs for payload in payloads]),
        token_logprobs=joined([payload.token_logprobs for payload in payloads]),
        tail=tail,
    )
