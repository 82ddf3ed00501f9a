"""An adapted network begins as its base, trains its factors alone, and is the base again when it is switched off."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from sdft_ray.config import AdapterConfig, AdapterKind, ModelConfig, Precision
from sdft_ray.errors import ConfigError, ModelError
from sdft_ray.models.adapter import (
    BLOCK_ELEMENTS,
    adapter_off,
    averaged,
    check_adapter,
    drop_inputs,
    factor_pairs,
    merge,
)
from sdft_ray.models.network import load_network, train_as_sampled
from sdft_ray.models.resolve import resolve_model
from sdft_ray.models.state import published_state, trained_parameters
from tests.models.families import FAMILIES
from tests.tiny import make_tiny_model

LORA = AdapterConfig(kind=AdapterKind.LORA, rank=4, alpha=6.0)
TOKENS = torch.tensor([[0, 20, 21, 22, 23, 24]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def load(folder: str, adapter: AdapterConfig = LORA, precision: Precision = Precision.FLOAT32) -> Any:
    return load_network(folder, precision, ModelConfig(path=folder, attention="sdpa"), adapter).eval()


def trained(folder: str, adapter: AdapterConfig = LORA) -> Any:
    """An adapted network whose factors have moved."""
    network = load(folder, adapter)
    generator = torch.Generator().manual_seed(1)
    for value in trained_parameters(network).values():
        value.data += 0.05 * torch.randn(value.shape, generator=generator)
    return network


@torch.no_grad()
def logits(network: Any) -> torch.Tensor:
    result: torch.Tensor = network(input_ids=TOKENS, use_cache=False).logits
    return result


def test_an_adapted_network_begins_with_the_logits_of_its_base(folder: str) -> None:
    assert torch.equal(logits(load(folder)), logits(load(folder, AdapterConfig())))


def test_the_factors_alone_are_trained_and_published(folder: str) -> None:
    network = load(folder)
    factors = trained_parameters(network)
    assert len(factors) == 2 * 2 * 7  # two factors, two layers of seven linear layers
    assert [value for value in network.parameters() if value.requires_grad] == list(factors.values())
    assert published_state(network).keys() == factors.keys()
    everything = load(folder, AdapterConfig())
    assert trained_parameters(everything).keys() == dict(everything.named_parameters()).keys()


def test_every_factor_and_no_weight_gets_a_gradient_through_lean_layers(folder: str) -> None:
    network = trained(folder)
    network(input_ids=TOKENS, labels=TOKENS, use_cache=False).loss.backward()
    assert all(value.grad is not None and value.grad.any() for value in trained_parameters(network).values())
    assert sum(value.grad is not None for value in network.parameters()) == len(trained_parameters(network))


def test_a_network_with_its_adapter_switched_off_is_its_base(folder: str) -> None:
    network, base = trained(folder), logits(load(folder, AdapterConfig()))
    with adapter_off(network):
        assert torch.equal(logits(network), base)
    assert (logits(network) - base).abs().max() > 0.1


@pytest.mark.parametrize("targets", [[], ["q_proj", "v_proj"], ["mlp.down_proj"]])
def test_merged_weights_compute_what_the_adapter_computes(folder: str, targets: list[str]) -> None:
    adapter = AdapterConfig(kind=AdapterKind.LORA, rank=4, alpha=6.0, targets=targets)
    network, merged = trained(folder, adapter), load(folder, AdapterConfig())
    for target, factors in factor_pairs(trained_parameters(network).items()).items():
        weight = merged.get_parameter(f"{target}.weight").detach()
        merge(weight, factors, adapter.scale, weight)
    torch.testing.assert_close(logits(merged), logits(network), atol=1e-4, rtol=0)


def test_a_sum_is_rounded_to_bf16_once() -> None:
    base, first, second = torch.tensor([[1.0]]).bfloat16(), torch.tensor([[0.5]]), torch.tensor([[0.015625]])
    into = torch.zeros(1, 1, dtype=torch.bfloat16)
    merge(base, (first, second), 1.0, into)
    assert into.item() == torch.tensor(1.0078125).bfloat16().item()


def test_weights_that_are_merged_in_blocks_are_the_sum_rounded_to_the_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = BLOCK_ELEMENTS // 300 + 7, 300  # more than a block, and no whole number of blocks
    base = torch.randn(rows, columns, generator=generator).bfloat16()
    first, second = torch.randn(4, columns, generator=generator), torch.randn(rows, 4, generator=generator)
    expected = torch.addmm(base.float(), second, first, alpha=0.5).bfloat16()
    merge(base, (first, second), 0.5, base)
    torch.testing.assert_close(base, expected)


def test_dropout_of_the_adapter_draws_in_training_alone(folder: str) -> None:
    network = trained(folder, AdapterConfig(kind=AdapterKind.LORA, rank=4, dropout=0.5))
    assert torch.equal(logits(network), logits(network))
    train_as_sampled(network)
    drop_inputs(network)
    assert not torch.equal(logits(network), logits(network))


def test_an_average_is_scaled_as_the_adapter_is() -> None:
    assert averaged(LORA).scale == LORA.scale
    assert averaged(LORA).rank == 2 * LORA.rank


def refused(folder: str, targets: list[str]) -> str:
    adapter = AdapterConfig(kind=AdapterKind.LORA, targets=targets)
    with pytest.raises(ConfigError) as refusal:
        check_adapter(adapter, "a/model", folder)
    return str(refusal.value)


@pytest.mark.parametrize("target", ["c_attn", "proj", "lm_head", "embed_tokens", "input_layernorm"])
def test_targets_that_are_no_linear_layers_of_the_decoder_are_refused_with_those_that_are(
    folder: str, target: str
) -> None:
    said = refused(folder, ["q_proj", target])
    assert said.startswith(f"model.adapter.targets={target}")
    assert "down_proj, gate_proj, k_proj" in said


def test_layers_that_multiply_in_another_way_are_refused(tmp_path: Path) -> None:
    config = GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=50)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert "which is Conv1D" in refused(str(tmp_path), ["c_attn"])


def test_experts_have_to_be_left_out_by_name(tmp_path: Path) -> None:
    config = MixtralConfig(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    assert "model.adapter.targets=[k_proj,o_proj,q_proj,v_proj]" in refused(str(tmp_path), [])
    adapter = AdapterConfig(kind=AdapterKind.LORA, targets=["q_proj"])
    check_adapter(adapter, "a/model", str(tmp_path))


def config_of(family: str, folder: Path) -> str:
    """A folder with the config.json of a tiny network of a family, and nothing else."""
    next(each for each in FAMILIES if each.name == family).config().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", ["qwen2_moe", "phimoe", "deepseek_v3", "jetmoe", "granitemoehybrid"])
def test_layers_that_are_named_in_place_of_experts_can_be_adapted(family: str, tmp_path: Path) -> None:
    folder = config_of(family, tmp_path)
    (named,) = re.findall(r"model\.adapter\.targets=\[(\S+)\]", refused(folder, []))
    check_adapter(AdapterConfig(kind=AdapterKind.LORA, targets=named.split(",")), "a/model", folder)


@pytest.mark.parametrize(
    ("family", "targets", "said"),
    [
        ("deepseek_v3", ["gate_proj", "up_proj", "o_proj"], "means experts to peft, such as model.layers."),
        ("deepseek_v3", ["gate_proj"], "is refused by peft for DeepseekV3ForCausalLM"),
        ("phimoe", ["router"], "names model.layers.0.mlp.router, which is PhimoeTopKRouter and computes more"),
        ("falcon_h1", [], "is refused by peft for FalconH1ForCausalLM"),
    ],
)
def test_layers_that_peft_adapts_in_another_way_are_refused_before_anything_starts(
    family: str, targets: list[str], said: str, tmp_path: Path
) -> None:
    assert said in refused(config_of(family, tmp_path), targets)


def test_layers_of_a_list_are_named_with_their_places(tmp_path: Path) -> None:
    check_adapter(AdapterConfig(kind=AdapterKind.LORA, rank=1), "a/model", config_of("zamba2", tmp_path))


def test_factors_that_are_no_smaller_than_the_weights_are_refused(folder: str) -> None:
    with pytest.raises(ConfigError, match=r"^model\.adapter\.rank=64: makes factors of .*; set it to [1-9]"):
        check_adapter(AdapterConfig(kind=AdapterKind.LORA, rank=64), "a/model", folder)
    large = AdapterConfig(kind=AdapterKind.LORA, rank=30)
    check_adapter(large, "a/model", folder)
    load(folder, averaged(large))  # of a teacher, whose rank is no setting


def test_a_folder_with_an_adapter_beside_a_model_is_not_taken_for_either(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"an adapter beside a model; move adapter_config\.json out of it"):
        resolve_model(str(tmp_path))


def test_a_folder_with_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds an adapter and no model.*export\.merged=true"):
        resolve_model(str(tmp_path))
