"""The output head: hidden states to logits, and the gradient back through it.

Legend: n rows (completion tokens), H hidden size, R rows of the head, V vocabulary entries that count, V <= R.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Head(NamedTuple):
    """logits = softcap * tanh(scale * (hidden @ weight.T + bias) / softcap), without the tanh where softcap is 0.

    `scale` is Cohere's logit_scale and the inverse of Granite's logits_scaling, `softcap` Gemma's
    final_logit_softcapping.
    """

    weight: Tensor  # [R, H]
    bias: Tensor | None = None  # [R]
    scale: float = 1.0
    softcap: float = 0.0
    gradient: Callable[[], Tensor] | None = None  # [R, H] that the weight's gradient may be added to; else autograd's

    def logits(self, hidden: Tensor, num_vocab: int) -> Tensor:
        """The logits of the entries that count, before any temperature.

        Args:
            hidden: [n, H] after the final norm; multiplied in the head's dtype.
            num_vocab: V; the rows from there on are padding.

        Returns:
            [n, V], fp32 or fp64, a tensor of its own.

        Raises:
            ValueError: num_vocab exceeds the rows, or the hidden sizes differ.
        """
        self.check(hidden, num_vocab)
        weight = self.weight[:num_vocab]
        logits = exact_product(hidden.to(weight.dtype), weight.T)
        if self.bias is not None:
            logits += self.bias[:num_vocab]
        if self.scale != 1.0:
            logits *= self.scale
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def slope(self, logits: Tensor) -> Tensor | float:
        """The derivative of `logits` [n, V] by hidden @ weight.T + bias: [n, V], or one number for all."""
        if not self.softcap:
            return self.scale
        return (logits / self.softcap).square_().neg_().add_(1.0).mul_(self.scale)

    def check(self, hidden: Tensor, num_vocab: int) -> None:
        """Refuses what does not fit: `ValueError`."""
        num_rows, hidden_size = self.weight.shape
        if not 1 <= num_vocab <= num_rows:
            raise ValueError(
                f"num_vocab={num_vocab}, but the head has {num_rows} rows: give the number of rows that count "
                f"for student and teacher alike, in [1, {num_rows}]"
            )
        if hidden.shape[-1] != hidden_size:
            raise ValueError(f"hidden states of size {hidden.shape[-1]} for a head of size {hidden_size}")


def exact_product(left: Tensor, right: Tensor) -> Tensor:
    """The matrix product [n, m], whose sums are rounded to fp32 and no further where the hardware can do that.

    Tensor cores add up in fp32; torch rounds the sums to the dtype of the factors unless told otherwise, which it can
    be on a GPU only. A logit of 20 in bf16 is off by up to 0.06.
    """
    if left.is_cuda and left.dtype is torch.bfloat16:
        return torch.mm(left, right, out_dtype=torch.float32)
    product = left @ right
    return product.to(torch.promote_types(product.dtype, torch.float32))


def add_exact_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds `exact_product(left, right)` to `total`, in place and, if possible, without a product of its own."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif total.is_cuda and left.dtype is torch.bfloat16:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total += left @ right
