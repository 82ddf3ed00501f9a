"""RMS norms and gated layers that keep less for the backward pass, without a matrix product computed twice.

transformers' own keep every step on the way: a norm its input, the normalised input and the result; a gated layer the
gate, its activation, the other branch and their product. Here a norm keeps its input, which the residual stream keeps
anyway, and a gated layer the gate and the other branch: what else the gradients need is made again from these by a
few passes over memory. With SmolLM2's shape a token keeps 47 KB in a layer of transformers' and 30 KB in one of these.

For fp32 weights; under bf16 transformers rounds between the steps, which is left to it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

# All alike: weight * x / sqrt(mean(x^2) + eps), and down(silu(gate(x)) * up(x)).
NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")


def make_lean(network: PreTrainedModel) -> None:
    """Puts lean layers in the place of those known here; parameters stay the same objects under the same names.

    A gated layer whose last product has an adapter beside it stays: the adapter needs that product's input.
    """
    for name, module in list(network.named_modules()):
        kind = type(module).__name__
        if kind in NORMS:
            network.set_submodule(name, LeanNorm(module))
        elif kind in GATED and module.config.hidden_act == "silu" and isinstance(module.down_proj, nn.Linear):
            network.set_submodule(name, LeanGated(module))


class LeanNorm(nn.Module):
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension."""

    def __init__(self, norm: Any):
        """Takes over the weight of one of `NORMS`."""
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.variance_epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] to [..., H]."""
        result: Tensor = _Norm.apply(hidden, self.weight, self.eps)
        return result


class LeanGated(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, gated: Any):
        """Takes over the linear layers of one of `GATED`."""
        super().__init__()
        self.gate_proj, self.up_proj = gated.gate_proj, gated.up_proj
        self.down_proj = LeanDown(gated.down_proj)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] to [..., H]."""
        result: Tensor = self.down_proj(self.gate_proj(hidden), self.up_proj(hidden))
        return result


class LeanDown(nn.Module):
    """down(silu(gate) * up); a module of its own, to which ZeRO 3 can tie the gathering of its weight."""

    def __init__(self, linear: nn.Linear):
        """Takes over weight [H, F] and bias [H]."""
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        """Both [..., F] to [..., H]."""
        result: Tensor = _Down.apply(gate, up, self.weight, self.bias)
        return result


class _Norm(torch.autograd.Function):
    """With n = x * r and r = 1 / sqrt(mean(x^2) + eps): the gradient on x is r (w g - n mean(w g n))."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = hidden.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(hidden, weight, scale)
        return (hidden * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight, scale = ctx.saved_tensors
        normed = hidden * scale
        weighed = gradient * normed
        of_weight = weighed.flatten(0, -2).sum(0)
        mean = (weighed @ weight).div_(weight.numel()).unsqueeze(-1)
        return torch.addcmul(gradient * weight, normed, mean, value=-1).mul_(scale), of_weight, None


class _Down(torch.autograd.Function):
    """The product of both branches, and the activation in it, are made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return F.linear(F.silu(gate).mul_(up), weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        gate, up, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        active = F.silu(gate)
        of_weight = rows.T @ (active * up).flatten(0, -2) if ctx.needs_input_grad[2] else None  # not of a frozen one
        of_product = gradient @ weight
        of_up = active.mul_(of_product)
        of_gate = torch.ops.aten.silu_backward(of_product.mul_(up), gate)
        return of_gate, of_up, of_weight, rows.sum(0) if ctx.needs_input_grad[3] else None
