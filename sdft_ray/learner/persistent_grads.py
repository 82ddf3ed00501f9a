"""Gradients and moments with memory of their own for the whole run, on a rank that holds all of them in fp32.

DeepSpeed lets go of the gradients with every step, and torch makes the moments in the first one. Both would come to lie
among the activations of some microbatch, and what is left between them would fit no other's. Besides, with memory
that is known beforehand, embedding and head can add their gradients to it, instead of making one of the whole
vocabulary for every microbatch.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sdft_ray.learner.objective import Student
from sdft_ray.tensors import release_pages


def allocate_gradients(
    student: Student, trained: Iterable[nn.Parameter], make_moments: Callable[[], None]
) -> "list[PersistentGradient]":
    """Allocates gradients and moments, before there are any activations; weights stay as they are.

    Returns the gradients.

    Args:
        student: whose parameters are whole and in fp32.
        trained: those of them that get a gradient.
        make_moments: allocates the optimizer's moments beside gradients of zero, and lets go of these gradients.
    """
    gradients: dict[Tensor, PersistentGradient] = {param: PersistentGradient(param) for param in trained}
    make_moments()
    if student.head.weight in gradients:
        student.head.gradient = gradients[student.head.weight].accumulator
    embedding = student.network.get_input_embeddings()
    if type(embedding) is nn.Embedding and embedding.weight in gradients:  # others do more than to look up
        student.network.set_input_embeddings(AccumulatingEmbedding(embedding, gradients[embedding.weight]))
    return list(gradients.values())


class PersistentGradient:
    """The memory of one parameter's gradient."""

    def __init__(self, param: nn.Parameter):
        """Gives the parameter a gradient of zero."""
        self._param = param
        self._values = param.grad = torch.zeros_like(param)
        param.register_post_accumulate_grad_hook(self._move)

    def accumulator(self) -> Tensor:
        """The gradient, to be added to: that of the step so far."""
        if self._param.grad is None:
            self._param.grad = self._values.zero_()
        return self._values

    def release(self) -> None:
        """Gives the memory back to the system between two steps; the next one finds it again."""
        if self._param.grad is None:
            release_pages(self._values)

    def _move(self, param: Tensor) -> None:
        """A step's first gradient from autograd; torch adds all others to it where it lies."""
        if param.grad is not None and param.grad is not self._values:
            param.grad = self._values.copy_(param.grad)


class AccumulatingEmbedding(nn.Module):
    """An embedding that adds its gradient to the rows that were looked up."""

    def __init__(self, embedding: nn.Embedding, gradient: PersistentGradient):
        """Takes over the weight [R, H], whose gradient is `gradient`."""
        super().__init__()
        self.weight = embedding.weight
        self._padding_idx = embedding.padding_idx
        self._gradient = gradient
        # Autograd asks only those for a gradient that something with a gradient has gone into.
        self._anchor = torch.zeros((), device=embedding.weight.device, requires_grad=True)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids [...] to their rows [..., H]."""
        rows: Tensor = _Lookup.apply(self._anchor, input_ids, self)
        return rows

    def add(self, input_ids: Tensor, gradient: Tensor) -> None:
        """Adds the gradient [..., H] on the rows of `input_ids` [...]; that of padding is none, as in nn.Embedding."""
        if self._padding_idx is not None:
            gradient = gradient.masked_fill((input_ids == self._padding_idx).unsqueeze(-1), 0.0)
        self._gradient.accumulator().index_add_(0, input_ids.flatten(), gradient.flatten(0, -2))


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, input_ids: Tensor, embedding: AccumulatingEmbedding) -> Tensor:
        ctx.save_for_backward(input_ids)
        ctx.embedding = embedding
        return embedding.weight[input_ids]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        (input_ids,) = ctx.saved_tensors
        ctx.embedding.add(input_ids, gradient)
        return None, None, None
