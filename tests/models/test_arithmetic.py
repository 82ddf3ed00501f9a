"""Parameters, operations and bytes, held against real networks of transformers."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sdft_ray.errors import ModelError
from sdft_ray.models.arithmetic import (
    activation_bytes,
    check_sizes,
    forward_flops,
    kv_cache_bytes_per_token,
    read_shape,
    sdpa_bytes,
    shape_of,
    training_flops,
    weight_bytes,
)
from sdft_ray.models.attention import PACKED
from sdft_ray.models.lean_layers import make_lean
from tests.models.families import FAMILIES, Family
from tests.models.kept import kept_bytes
from tests.tiny import make_tiny_model

SIZES = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.0, "pad_token_id": 0}
NETWORKS = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("mistral", {"head_dim": 16}),
    ("phi3", {"pad_token_id": 0}),
    ("granite", {"tie_word_embeddings": True}),
    ("qwen2", {"tie_word_embeddings": False}),
    ("qwen3", {"head_dim": 16}),
    ("gemma2", {"head_dim": 16}),
    ("gemma3_text", {"head_dim": 16}),
    ("gpt_neox", {}),
    ("gpt2", {"n_embd": 48, "n_head": 4, "n_layer": 3}),
    ("starcoder2", {"tie_word_embeddings": True}),
    ("olmo2", {}),
    ("smollm3", {"pad_token_id": 0}),
    ("mixtral", EXPERTS | {"num_local_experts": 4}),
    ("qwen3_moe", EXPERTS | {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 16}),
    ("olmoe", EXPERTS | {"num_experts": 4}),
    ("granitemoe", EXPERTS | {"num_local_experts": 4}),
]
TWO_SEQUENCES = torch.tensor([[*range(160), *range(96)]])


def make(model_type: str, attn_implementation: str = "sdpa", **settings: object) -> PreTrainedModel:
    config = AutoConfig.for_model(model_type, **SIZES | settings)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attn_implementation)


@pytest.mark.parametrize(("model_type", "settings"), NETWORKS, ids=lambda value: str(value))
def test_parameters_are_those_of_the_network(model_type: str, settings: dict[str, object]) -> None:
    network = make(model_type, **settings)
    shape = shape_of(network.config)
    assert shape.num_parameters == sum(param.numel() for param in network.parameters())
    assert weight_bytes(shape, 2) == 2 * shape.num_parameters


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_needs_no_more_than_its_config(tmp_path: Path, tied: bool) -> None:
    folder = Path(make_tiny_model(tmp_path / "full", tied=tied, vocab=500))
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((folder / "config.json").read_text())
    network = AutoModelForCausalLM.from_pretrained(folder)
    assert read_shape(bare).num_parameters == sum(param.numel() for param in network.parameters())
    assert read_shape(bare).tied_head is tied


def test_a_network_without_attention_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="model_type=mamba2.*no language model with attention heads"):
        shape_of(AutoConfig.for_model("mamba2"))


def test_a_model_type_that_transformers_lacks_is_refused_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(ModelError, match="config.json: .*abacus.*give the config.json of a language model"):
        read_shape(tmp_path / "config.json")


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_of_experts_a_token_is_multiplied_with_those_it_is_sent_to(model_type: str) -> None:
    settings = dict(NETWORKS)[model_type]
    network = make(model_type, attn_implementation="eager", experts_implementation="eager", **settings)
    ids = torch.zeros(1, 64, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        network(input_ids=ids, logits_to_keep=10, use_cache=False)
    expected = forward_flops(shape_of(network.config), 64, context=64, head_rows=10)
    assert counter.get_total_flops() == expected


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no config.json"):
        read_shape(tmp_path)


def test_operations_are_those_torch_counts() -> None:
    network, num_tokens, head_rows = make("llama", attn_implementation="eager"), 64, 10
    shape = shape_of(network.config)
    ids = torch.zeros(1, num_tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        logits = network(input_ids=ids, logits_to_keep=head_rows, use_cache=False).logits
    # The eager kernel also computes what causality hides.
    expected = forward_flops(shape, num_tokens, context=num_tokens, head_rows=head_rows)
    assert counter.get_total_flops() == expected
    with FlopCounterMode(display=False) as backward_counter:
        logits.sum().backward()
    forward_and_backward = training_flops(shape, num_tokens, context=num_tokens, head_rows=head_rows)
    assert counter.get_total_flops() + backward_counter.get_total_flops() == forward_and_backward


def test_checkpointing_runs_the_layers_forward_once_more() -> None:
    shape = shape_of(make("llama").config)
    sizes = {"context": 32.5, "head_rows": 16}
    again = training_flops(shape, 64, **sizes, checkpointing=True) - training_flops(shape, 64, **sizes)
    assert again == forward_flops(shape, 64, context=32.5, head_rows=0)


def test_the_cache_is_as_large_as_transformers_own() -> None:
    network = make("llama")
    cache = network(input_ids=torch.zeros(1, 24, dtype=torch.long), use_cache=True).past_key_values
    num_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert num_bytes == 24 * kv_cache_bytes_per_token(shape_of(network.config), 4)


def kept_for_backward(network: PreTrainedModel) -> int:
    """Bytes autograd keeps of a packed forward pass besides the parameters."""
    ids = torch.zeros_like(TWO_SEQUENCES)
    return kept_bytes(lambda: network.model(input_ids=ids, position_ids=TWO_SEQUENCES, use_cache=False), network)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("attention", [PACKED, "sdpa"])
def test_activations_are_what_autograd_keeps(model_type: str, dtype: torch.dtype, attention: str) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6}
    network = make(model_type, attn_implementation=attention, **sizes).to(dtype)
    if dtype is torch.float32:
        make_lean(network)
    shape, of_pass = shape_of(network.config), (TWO_SEQUENCES.numel(), dtype.itemsize)
    predicted = activation_bytes(shape, *of_pass) + (sdpa_bytes(shape, *of_pass) if attention == "sdpa" else 0)
    assert predicted == pytest.approx(kept_for_backward(network), rel=0.03)


def test_checkpointed_activations_are_the_layers_inputs_and_one_layer() -> None:
    shape = shape_of(make("llama").config)
    one_layer = activation_bytes(shape, 64, 2) - activation_bytes(shape, 64, 2, checkpointing=True)
    inputs = shape.num_layers * 64 * 2 * shape.hidden_size
    final_norm = 64 * 8 * shape.hidden_size
    full = activation_bytes(shape, 64, 2) - final_norm
    assert one_layer == full - full // shape.num_layers - inputs


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_every_family_has_a_shape(family: Family) -> None:
    assert shape_of(family.config()).num_parameters > 0


@pytest.mark.parametrize(
    ("keys", "is_refused"),
    [
        ({"num_local_experts": 0}, False),
        ({"intermediate_size": [64, 128]}, False),
        ({"intermediate_size": [64, 0]}, True),
        ({"num_attention_heads": 12, "num_key_value_heads": 5, "head_dim": 64}, True),
        ({"hidden_size": 100, "num_attention_heads": 12, "head_dim": 64}, False),
    ],
)
def test_sizes_of_real_configs_pass_and_impossible_ones_do_not(keys: dict[str, Any], is_refused: bool) -> None:
    with pytest.raises(ModelError, match="^mine: ") if is_refused else nullcontext():
        check_sizes(keys, "mine")
