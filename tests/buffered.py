"""Tiny networks that keep weights in buffers: the scale of a layer, what a router adds to its scores."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "float32",
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma4_text": {
        "head_dim": 16,
        "global_head_dim": 16,
        "layer_types": ["full_attention", "full_attention"],
        "vocab_size_per_layer_input": 50,
        "hidden_size_per_layer_input": 8,
    },
    "deepseek_v3": {
        "moe_intermediate_size": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "first_k_dense_replace": 1,
    },
}
NUM_BUFFERS = {"gemma4_text": 2, "deepseek_v3": 1}  # one a layer; one a layer with experts


def make_buffered(family: str, seed: int = 0) -> Any:
    """A network whose parameters and saved buffers are all random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES | FAMILIES[family])).eval()
        saved = network.state_dict()
        for name, buffer in network.named_buffers():
            if name in saved:
                buffer.copy_(0.2 + torch.rand_like(buffer))
    return network
