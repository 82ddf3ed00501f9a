"""Tiny configurations of the model families of transformers, with what the check of the packing decides about each.

`python -m tests.models.families` writes docs/models.md from this table; test_families.py holds the table to what is
computed, and the page to the table.
Windows, chunks and caps are so small, and dropout so frequent, that no row escapes them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sdft_ray.models.network import is_noise
from sdft_ray.models.packing import Packing

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
NOISE = 0.1  # every dropout and router jitter of a configuration

WHOLE, ENDED, SINGLE = Packing.SHARED_PREFIX, Packing.END_TO_END, Packing.SINGLE
SAYS = {
    WHOLE: "right",
    ENDED: "right, prefix not shared",
    SINGLE: "right, one at a time",
    None: "refused",
}

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED = EXPERTS | {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
MAMBA = {
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
}
WINDOW = {"sliding_window": 4}
WINDOWS = WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}
CAPPED = WINDOWS | {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}


@dataclass(frozen=True)
class Family:
    """A family with a tiny configuration of it."""

    name: str  # transformers' model_type
    settings: dict[str, Any] = field(default_factory=dict)  # what differs from SIZES
    packing: Packing | None = WHOLE  # what the learner decides; None where it refuses the network
    attention: str = "packed"  # the implementation that the decision is for
    note: str = ""  # what of the configuration is special, or why it is not packed
    has_head_dim: bool = True  # false where the size of a head follows from the others

    def config(self) -> PretrainedConfig:
        """The configuration, with noise wherever it knows any."""
        settings = SIZES | self.settings
        if not self.has_head_dim:
            del settings["head_dim"]
        config = CONFIG_MAPPING[self.name](**settings)
        for name in config.to_dict():
            if name not in self.settings and isinstance(getattr(config, name, None), float) and is_noise(name, 1.0):
                setattr(config, name, NOISE)
        return config

    def network(self, attention: str) -> PreTrainedModel:
        """The network with random weights, the same ones at every call; fp32."""
        config = self.config()
        torch.manual_seed(0)
        chooses = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._can_set_attn_implementation()
        kwargs = {"attn_implementation": attention} if chooses else {}
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **kwargs)
        for tensor in network.state_dict().values():
            if tensor.dim() <= 1 and tensor.is_floating_point():  # biases, norms and buffers, which start as 0 or 1
                tensor.add_(torch.randn_like(tensor), alpha=0.1)
        return network


PLAIN = (
    "llama qwen3 gemma phi phi3 olmo olmo2 granite cohere glm glm4 stablelm starcoder2 smollm3 ernie4_5 seed_oss "
    "hunyuan_v1_dense arcee apertus nemotron helium bitnet gpt_neox nanochat opt"
)
MIXTURES = "qwen2_moe qwen3_moe mixtral olmoe granitemoe phimoe jetmoe hunyuan_v1_moe ernie4_5_moe minimax_m2 glm4_moe"
STATE = "its state would go on from one sequence to the next"
BY_MASK = "it sees where a packed sequence begins by a mask only"
IGNORES = "it does not see where a packed sequence begins"

FAMILIES = [
    *(Family(name) for name in PLAIN.split()),
    Family("gpt2", GPT2),
    Family("diffllama", {"attention_dropout": 0.0}),  # it refuses any other
    *(Family(name, EXPERTS, note="experts") for name in MIXTURES.split()),
    *(Family(name, WINDOW, note="windows") for name in ("mistral", "ministral", "granite_swa")),
    *(Family(name, WINDOWS, note="windows") for name in ("gemma3_text", "olmo3", "exaone4", "cohere2")),
    Family("qwen2", WINDOW | {"use_sliding_window": True, "max_window_layers": 0}, note="windows"),
    Family(
        "gemma4_text",
        WINDOWS
        | {
            "global_head_dim": 16,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 96,
            "num_kv_shared_layers": 0,
        },
        note="windows, a scale a layer",
    ),
    *(Family(name, CAPPED, note="windows, a cap on the scores") for name in ("gemma2", "vaultgemma")),
    Family("gpt_oss", WINDOWS | EXPERTS, note="windows, sinks, experts"),
    Family("deepseek_v2", LATENT | ROUTED | {"num_key_value_heads": 4}, note="latent attention, experts"),
    Family(
        "deepseek_v3", LATENT | ROUTED | {"num_key_value_heads": 4, "head_dim": 8}, note="latent attention, experts"
    ),
    Family("dots1", ROUTED, note="experts"),
    # One sequence at a time, or end to end with attention of their own.
    *(Family(name, GPT2 | {"n_ctx": 128, "rotary_dim": 8}, ENDED, "eager") for name in ("codegen", "gptj")),
    Family(
        "gpt_neo",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4},
        ENDED,
        "eager",
        "windows",
    ),
    Family("persimmon", {}, ENDED, "sdpa", BY_MASK),
    Family("ministral3", {}, ENDED, "sdpa", BY_MASK),
    Family("doge", {}, ENDED, "sdpa", "a mask of its own"),
    Family("gpt_bigcode", GPT2, ENDED, "sdpa", BY_MASK),
    Family("bloom", {"n_layer": 2, "n_head": 4}, SINGLE, "eager", f"ALiBi; {IGNORES}"),
    Family(
        "mpt",
        {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 128, "expansion_ratio": 2},
        SINGLE,
        "eager",
        f"ALiBi; {IGNORES}",
    ),
    Family("xglm", {"d_model": 64, "ffn_dim": 96, "num_layers": 2, "attention_heads": 4}, SINGLE, "eager", IGNORES),
    Family(
        "falcon",
        {"alibi": False, "num_kv_heads": 2, "new_decoder_architecture": True},
        SINGLE,
        "sdpa",
        IGNORES,
        has_head_dim=False,
    ),
    Family(
        "llama4_text",
        EXPERTS
        | {
            "intermediate_size_mlp": 96,
            "attention_chunk_size": 8,
            "layer_types": ["chunked_attention", "full_attention"],
            "no_rope_layers": [1, 0],
            "interleave_moe_layer_step": 1,
        },
        SINGLE,
        "sdpa",
        "attention in chunks; packed where the longest sequence fits in one",
    ),
    Family(
        "qwen3_next",
        LINEAR
        | EXPERTS
        | {"shared_expert_intermediate_size": 32, "decoder_sparse_step": 1, "partial_rotary_factor": 0.25},
        SINGLE,
        note=STATE,
    ),
    Family("qwen3_5_text", LINEAR, SINGLE, note=STATE),
    Family("olmo_hybrid", LINEAR, SINGLE, note=STATE),
    Family(
        "lfm2",
        {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3, "block_multiple_of": 8},
        SINGLE,
        note=STATE,
    ),
    Family("bamba", MAMBA | {"attn_layer_indices": [1]}, SINGLE, note=STATE),
    Family("falcon_h1", MAMBA | {"mamba_d_ssm": 128, "lm_head_multiplier": 0.5}, SINGLE, note=STATE),
    Family(
        "granitemoehybrid",
        MAMBA | EXPERTS | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
        SINGLE,
        note=STATE,
    ),
    Family(
        "jamba",
        {
            "mamba_d_state": 8,
            "mamba_d_conv": 4,
            "mamba_dt_rank": 8,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "use_mamba_kernels": False,
        },
        SINGLE,
        note=STATE,
    ),
    Family(
        "nemotron_h",
        {
            "layers_block_type": ["mamba", "attention"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 32,
            "ssm_state_size": 8,
            "n_groups": 1,
            "conv_kernel": 4,
            "chunk_size": 8,
        },
        SINGLE,
        note=STATE,
    ),
    Family(
        "zamba2",
        {
            "mamba_d_state": 8,
            "mamba_ngroups": 1,
            "n_mamba_heads": 4,
            "chunk_size": 8,
            "layers_block_type": ["mamba", "hybrid"],
            "num_mem_blocks": 1,
        },
        SINGLE,
        note=STATE,
    ),
    Family(
        "minimax",
        EXPERTS | {"layer_types": ["linear_attention", "full_attention"], "block_size": 8},
        SINGLE,
        note=STATE,
    ),
    Family("mamba", {"state_size": 8, "conv_kernel": 4, "time_step_rank": 8}, SINGLE, note=STATE),
    Family("falcon_mamba", {"state_size": 8, "conv_kernel": 4, "time_step_rank": 8}, SINGLE, note=STATE),
    Family(
        "mamba2",
        {"state_size": 8, "num_heads": 4, "head_dim": 32, "n_groups": 1, "chunk_size": 8, "conv_kernel": 4},
        SINGLE,
        note=STATE,
    ),
    Family(
        "recurrent_gemma",
        {"lru_width": 64, "attention_window_size": 4, "block_types": ["recurrent", "attention"], "conv1d_width": 4},
        SINGLE,
        note=STATE,
    ),
    Family("rwkv", {"attention_hidden_size": 64}, SINGLE, "eager", STATE),
]


def page() -> str:
    """docs/models.md."""
    counts = {says: sum(SAYS[family.packing] == says for family in FAMILIES) for says in SAYS.values()}
    rows = [
        f"| {family.name} | {SAYS[family.packing]} | {family.attention if family.packing else ''} | {family.note} |"
        for family in sorted(FAMILIES, key=lambda family: family.name)
    ]
    return "\n".join(
        [PREAMBLE.format(num=len(FAMILIES), counts="; ".join(f"{n} {says}" for says, n in counts.items())), *rows, ""]
    )


PREAMBLE = """# Model families

<!-- Written by `python -m tests.models.families`; a test holds every row to what is computed. -->

Every start computes a few rows of the data as they will be computed, and holds them against the same rows one by one
(`sdft_ray/models/packing_check.py`). What it finds decides how the learner, and a teacher on transformers, lay out
sequences; the terminal says it once. No list of names decides anything, and this table is no such list: it is what the
check decides for {num} tiny networks with random weights, one a family of transformers.

{counts}.

- **right**: sequences are packed end to end, and what all prompts begin with is computed once.
- **right, prefix not shared**: packed, but a common prefix is computed for each sequence.
- **right, one at a time**: a forward pass holds one sequence. The result is the same; small sequences take longer.
- **refused**: the start ends with an error that says why, and what to set.

Attention is the implementation that is set where `model.attention=packed`, the default, is asked for. Hidden states and
the gradients of all weights are those of single sequences in fp32, to 1e-5 and 5e-5, with dropout and router noise
configured, with and without gradient checkpointing.

| family | learner | attention | note |
| --- | --- | --- | --- |"""


if __name__ == "__main__":
    PAGE.write_text(page())
