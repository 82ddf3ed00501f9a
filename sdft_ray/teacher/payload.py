"""The payload a teacher worker sends for one completion, made from the hidden states of its positions.

Legend: T completion tokens, H hidden size, V vocabulary entries that count, K candidates.
"""

from collections.abc import Sequence

import torch

from sdft_ray.config import Payload, TeacherConfig
from sdft_ray.distill.distributions import Head
from sdft_ray.models.network import TORCH_DTYPE
from sdft_ray.records import HiddenPayload, LogitsPayload, TeacherPayload, TopKPayload
from sdft_ray.tensors import to_array


class PayloadPacker:
    """Makes payloads of the kind that `teacher.payload` names."""

    def __init__(self, teacher: TeacherConfig, head: Head, num_tokens: int, temperature: float):
        """`head` is the network's own, so that new weights are seen; `num_tokens` is V."""
        self._kind = teacher.payload
        self._dtype = TORCH_DTYPE[teacher.payload_precision]
        self._top_k = min(teacher.top_k, num_tokens)
        self._head = head
        self._num_tokens = num_tokens
        self._temperature = temperature

    def pack(self, hidden: torch.Tensor, completion_tokens: Sequence[int]) -> TeacherPayload:
        """The payload of one completion from `hidden` [T, H].

        Always a copy: a view would keep the hidden states of the whole batch alive as long as one of its payloads.
        """
        match self._kind:
            case Payload.HIDDEN:
                return HiddenPayload(hidden=to_array(hidden.to("cpu", self._dtype, copy=True)))
            case Payload.LOGITS:
                logits = self._head.logits(hidden, self._num_tokens)
                return LogitsPayload(logits=to_array(logits.to("cpu", self._dtype)))
            case Payload.TOPK:
                return self._most_likely(hidden, torch.tensor(completion_tokens, device=hidden.device))

    def _most_likely(self, hidden: torch.Tensor, token_ids: torch.Tensor) -> TopKPayload:
        logits = self._head.logits(hidden, self._num_tokens)
        logprobs = torch.log_softmax(logits / self._temperature, dim=-1)
        token_logprobs = logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
        values, ids = logprobs.topk(self._top_k)
        tail = logprobs.scatter_(-1, ids, -torch.inf).logsumexp(-1)
        return TopKPayload(
            ids=to_array(ids.int()),
            logprobs=to_array(values),
            tail_logprobs=to_array(tail),
            token_logprobs=to_array(token_logprobs),
        )
