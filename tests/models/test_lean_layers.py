"""Lean layers against those of transformers, in value, gradient and what they keep."""

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from sdft_ray.models.lean_layers import GATED, NORMS, LeanGated, LeanNorm, make_lean
from tests.models.kept import kept_bytes

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
CONFIGS = (LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config)
TOKENS = torch.arange(24).reshape(2, 12)


def network_of(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        for name, parameter in network.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(parameter, mean=1.0)  # they are all 1 otherwise
    return network


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_values_and_gradients_are_those_of_transformers(config: Any, checkpointing: bool) -> None:
    theirs = network_of(config(**SIZES)).train()
    ours = copy.deepcopy(theirs)
    make_lean(ours)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    kinds = {type(module).__name__ for module in ours.modules()}
    assert {"LeanNorm", "LeanGated"} <= kinds
    assert not kinds & {*NORMS, *GATED}
    if checkpointing:
        ours.gradient_checkpointing_enable({"use_reentrant": False})
    logits = [network(TOKENS, use_cache=False).logits for network in (ours, theirs)]
    assert torch.allclose(*logits, rtol=1e-5, atol=1e-6)
    for values in logits:
        values.square().mean().backward()
    for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(own.grad, other.grad, rtol=1e-4, atol=1e-4 * float(other.grad.abs().max())), name


def test_a_gated_layer_keeps_its_two_branches_and_its_input() -> None:
    theirs = network_of(LlamaConfig(**SIZES)).model.layers[0].mlp
    ours = LeanGated(theirs)
    hidden = torch.randn(12, SIZES["hidden_size"], requires_grad=True)
    rows = [1 + 2 * 3, 1 + 4 * 3]  # in units of the hidden size: the intermediate size is three of them
    for gated, expected in zip((ours, theirs), rows, strict=True):
        size = kept_bytes(lambda gated=gated: gated(hidden), theirs)
        print(f"{type(gated).__name__}: {size} bytes")
        assert size == expected * hidden.nbytes


def test_a_norm_keeps_its_input() -> None:
    theirs = network_of(LlamaConfig(**SIZES)).model.norm
    ours = LeanNorm(theirs)
    hidden = torch.randn(12, SIZES["hidden_size"], requires_grad=True)
    assert kept_bytes(lambda: ours(hidden), theirs) == hidden.nbytes + 12 * 4
    assert kept_bytes(lambda: theirs(hidden), theirs) >= 2 * hidden.nbytes


def test_gradients_are_those_of_finite_differences() -> None:
    theirs = network_of(LlamaConfig(**SIZES)).double()
    layer = theirs.model.layers[0]
    hidden = torch.randn(3, SIZES["hidden_size"], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LeanNorm(layer.input_layernorm), (hidden,))
    assert torch.autograd.gradcheck(LeanGated(layer.mlp), (hidden,))


def test_a_biased_gated_layer_has_a_gradient_for_every_bias() -> None:
    theirs = network_of(LlamaConfig(mlp_bias=True, **SIZES)).model.layers[0].mlp
    ours = LeanGated(copy.deepcopy(theirs))
    hidden = torch.randn(12, SIZES["hidden_size"])
    for gated in (ours, theirs):
        gated(hidden).square().sum().backward()
    for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(own.grad, other.grad, rtol=1e-4, atol=1e-4 * float(other.grad.abs().max())), name


def test_another_activation_is_left_as_it_is() -> None:
    network = network_of(LlamaConfig(hidden_act="gelu", **SIZES))
    make_lean(network)
    assert type(network.model.layers[0].mlp).__name__ == "LlamaMLP"
