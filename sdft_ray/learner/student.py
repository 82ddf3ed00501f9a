"""The student as DeepSpeed wraps it: the network without its head, then the head together with the loss.

The head is a module of its own that owns the head's parameters (the network's, not copies), so that whatever
DeepSpeed does around a module's forward pass it does around exactly them: under ZeRO 3 the head is gathered while the
loss is computed, and nothing else is.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from transformers import PreTrainedModel

from sdft_ray.distill.head import Head
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.models.network import (
    PROBE_TOKENS,
    compare_head,
    completion_hidden,
    output_head,
    plain_attention,
    train_as_configured,
    train_as_sampled,
)


class HeadOutput(NamedTuple):
    """Hidden states [T, H] or logits [T, V] that `StudentHead` is asked for in place of a loss."""

    values: torch.Tensor

    def as_tuple(self) -> tuple[torch.Tensor, ...]:
        """As `LossOutput.as_tuple`."""
        return tuple(self)


LossOf = Callable[[torch.Tensor, Head], LossOutput | HeadOutput]


class Forward(Protocol):
    """`Student.forward`, of the student itself or of the engine around it."""

    def __call__(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        predictor_index: torch.Tensor,
        loss_of: LossOf | None,
    ) -> tuple[torch.Tensor, ...]:
        """See `Student.forward`."""
        ...


class Student(torch.nn.Module):
    """A causal language model that ends in a loss instead of logits."""

    def __init__(self, network: PreTrainedModel, *, dropout: bool = False):
        """`dropout` keeps what makes the training of `network` random."""
        super().__init__()
        self.network = network
        self.head = StudentHead(output_head(network))
        self._dropout = dropout

    def train(self, mode: bool = True) -> "Student":
        """The mode of a training step, in which the network computes as it samples unless dropout is kept."""
        super().train(mode)
        if mode:
            (train_as_configured if self._dropout else train_as_sampled)(self.network)
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        predictor_index: torch.Tensor,
        loss_of: LossOf | None,
    ) -> tuple[torch.Tensor, ...]:
        """The fields of `loss_of`'s answer for the hidden states [T, H] of the completion positions and the head.

        Without `loss_of`, the network's own logits [T, R] at these positions.
        """
        if loss_of is None:
            output = self.network(input_ids=input_ids[None], position_ids=position_ids[None], use_cache=False)
            return (output.logits[0, predictor_index],)
        hidden = completion_hidden(self.network, input_ids, position_ids, predictor_index)
        result: tuple[torch.Tensor, ...] = self.head(hidden, loss_of)
        return result


class StudentHead(torch.nn.Module):
    """Holds the parameters that the loss multiplies hidden states with."""

    def __init__(self, head: Head):
        super().__init__()
        self.weight, self.bias = head.weight, head.bias
        self._transform = head.scale, head.softcap
        self.gradient: Callable[[], torch.Tensor] | None = None  # see `Head.gradient`

    def forward(self, hidden: torch.Tensor, loss_of: LossOf) -> tuple[torch.Tensor, ...]:
        """A tuple, since DeepSpeed finds the tensors it has to watch in tuples but not in dataclasses."""
        return loss_of(hidden, Head(self.weight, self.bias, *self._transform, self.gradient)).as_tuple()


@torch.no_grad()
def check_partitioned_head(forward: Forward, network: PreTrainedModel, device: torch.device) -> None:
    """Checks the head as `models.network.check_head` does, on weights that ZeRO 3 has cut up; all ranks together.

    Raises:
        ModelError: the network does something to its logits that `Head` does not know.
    """
    tokens = torch.arange(PROBE_TOKENS, device=device)
    inputs = {"input_ids": tokens, "position_ids": tokens, "predictor_index": tokens}
    with plain_attention(network):
        (expected,) = forward(**inputs, loss_of=None)
        (logits,) = forward(**inputs, loss_of=lambda hidden, head: HeadOutput(head.logits(hidden, len(head.weight))))
    compare_head(network, logits, expected.float(), network.dtype)
