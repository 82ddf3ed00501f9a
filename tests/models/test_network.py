"""Hidden states and heads against transformers' own logits, for every kind of head there is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
)

from sdft_ray.config import ModelConfig, Precision
from sdft_ray.errors import ModelError
from sdft_ray.models.network import (
    check_head,
    completion_hidden,
    load_head,
    load_network,
    output_head,
    train_as_sampled,
)
from sdft_ray.models.packing import pack_sequences

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
}
CONFIGS = {
    "tied": LlamaConfig(tie_word_embeddings=True, **SIZES),
    "untied": LlamaConfig(tie_word_embeddings=False, **SIZES),
    "scaled up (Cohere)": CohereConfig(logit_scale=0.25, **SIZES),
    "scaled down (Granite)": GraniteConfig(logits_scaling=8.0, **SIZES),
    "capped (Gemma 2)": Gemma2Config(final_logit_softcapping=0.05, **SIZES),
    "with a bias (Phi)": PhiConfig(**{key: value for key, value in SIZES.items() if key != "head_dim"}),
}
SEQUENCES = [((1, 2, 3), (4, 5)), ((6,), (7, 8, 9))]


@pytest.fixture(params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(CONFIGS[request.param])
        bias = getattr(network.get_output_embeddings(), "bias", None)
        if bias is not None:
            torch.nn.init.normal_(bias)
    network.save_pretrained(tmp_path)
    return str(tmp_path)


def load(folder: str) -> Any:
    """With transformers' own attention, which computes what Gemma 2 asks for."""
    return load_network(folder, Precision.FLOAT32, ModelConfig(path=folder, attention="sdpa")).eval()


def test_hidden_states_and_head_give_the_networks_logits_of_every_sequence(folder: str) -> None:
    network = load(folder)
    packed = pack_sequences(SEQUENCES)
    with torch.no_grad():
        hidden = completion_hidden(
            network, *map(torch.from_numpy, (packed.input_ids, packed.position_ids, packed.predictor_index))
        )
        expected = [
            network(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
            for prompt, completion in SEQUENCES
        ]
    torch.testing.assert_close(output_head(network).logits(hidden, 50), torch.cat(expected), rtol=1e-4, atol=1e-5)
    check_head(network)


def test_the_head_read_from_the_folder_is_the_networks(folder: str) -> None:
    mine, expected = load_head(folder, Precision.FLOAT32, torch.device("cpu")), output_head(load(folder))
    assert torch.equal(mine.weight, expected.weight)
    assert (mine.bias is None) == (expected.bias is None)
    assert mine.bias is None or torch.equal(mine.bias, expected.bias)
    assert mine[2:] == expected[2:]


def test_a_head_in_one_of_several_files_is_found(tmp_path: Path) -> None:
    LlamaForCausalLM(CONFIGS["untied"]).save_pretrained(tmp_path, max_shard_size="10KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    head = load_head(str(tmp_path), Precision.FLOAT32, torch.device("cpu"))
    assert torch.equal(head.weight, output_head(load(str(tmp_path))).weight)


def test_a_folder_without_the_head_is_refused(tmp_path: Path) -> None:
    CONFIGS["untied"].save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no safetensors file holds lm_head.weight.*teacher.payload=LOGITS"):
        load_head(str(tmp_path), Precision.FLOAT32, torch.device("cpu"))


class Doubling(LlamaForCausalLM):
    """Does something to its logits that no configuration tells of."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output


def test_a_head_of_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="Doubling computes other logits than its output embeddings"):
        check_head(Doubling(CONFIGS["tied"]).eval())


def test_layers_recompute_their_activations_in_the_mode_they_sample_in() -> None:
    network = LlamaForCausalLM(LlamaConfig(attention_dropout=0.5, **SIZES))
    network.gradient_checkpointing_enable({"use_reentrant": False})
    train_as_sampled(network.train())
    train_as_sampled(network.train())  # every step of a run begins so
    layer = network.model.layers[0]
    modes = []
    layer.mlp.register_forward_pre_hook(lambda *_: modes.append(layer.training))
    tokens = torch.arange(5)
    completion_hidden(network, tokens, tokens, tokens).sum().backward()
    assert modes == [False, False]  # forward, and once more in the backward pass


def test_a_folder_that_lacks_weights_is_refused_by_the_name_of_one(tmp_path: Path) -> None:
    network = LlamaForCausalLM(LlamaConfig(**SIZES))
    held = {name: value for name, value in network.state_dict().items() if name != "model.layers.1.mlp.up_proj.weight"}
    network.save_pretrained(tmp_path, state_dict=held)
    with pytest.raises(ModelError, match=r"no weights for 1 parameters.*layers\.1\.mlp\.up_proj\.weight"):
        load(str(tmp_path))
