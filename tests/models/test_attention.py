"""Packed attention against one forward pass a sequence, without any packing: hidden states and gradients."""

import copy
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, LlamaConfig, LlamaForCausalLM, MistralConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from sdft_ray.errors import ModelError
from sdft_ray.models.attention import Layout, read_layout
from sdft_ray.models.network import completion_hidden
from sdft_ray.models.packing import pack_sequences
from tests.models.test_network import SIZES

PREFIX = (11, 12, 13, 14)
SEQUENCES = [
    ((*PREFIX, 1, 2, 3), (4, 5)),
    ((*PREFIX, 6), (7, 8, 9)),
    ((*PREFIX, 1, 2), (10,)),
]
LLAMA = LlamaConfig(**(SIZES | {"num_attention_heads": 4}))


def make_network(config: Any = LLAMA, attention: str = "packed") -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention).double()


def packed_hidden(network: Any, *, share_prefix: bool, sequences: Any = SEQUENCES, device: str = "cpu") -> torch.Tensor:
    packed = pack_sequences(sequences, share_prefix=share_prefix)
    arrays = (packed.input_ids, packed.position_ids, packed.predictor_index)
    return completion_hidden(network, *(torch.from_numpy(array).to(device) for array in arrays))


def one_by_one(network: Any) -> torch.Tensor:
    parts = []
    for prompt, completion in SEQUENCES:
        output = network.model(torch.tensor([[*prompt, *completion]]), use_cache=False)
        parts.append(output.last_hidden_state[0, len(prompt) - 1 : -1])
    return torch.cat(parts)


@pytest.mark.parametrize("share_prefix", [False, True])
def test_hidden_states_and_gradients_are_those_of_every_sequence_alone(share_prefix: bool) -> None:
    packed, plain = make_network(), make_network(attention="sdpa")
    mine, expected = packed_hidden(packed, share_prefix=share_prefix), one_by_one(plain)
    torch.testing.assert_close(mine, expected)
    weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (mine * weights).sum().backward()
    (expected * weights).sum().backward()
    others = dict(plain.named_parameters())
    for name, parameter in packed.named_parameters():
        if parameter.grad is not None:
            # Norms and rotations are computed in fp32.
            torch.testing.assert_close(parameter.grad, others[name].grad, rtol=1e-5, atol=1e-5)


def test_a_common_prefix_is_read_once() -> None:
    alone, shared = (pack_sequences(SEQUENCES, share_prefix=share).input_ids for share in (False, True))
    assert len(alone) - len(shared) == 2 * len(PREFIX)


@pytest.mark.parametrize(
    ("positions", "layout"),
    [
        ([0, 1, 2], Layout(0, [3])),
        ([0, 1, 0, 1, 2], Layout(0, [2, 3])),
        ([0, 1, 2, 2, 3, 2], Layout(2, [3, 2, 1])),
        ([0, 0, 0], Layout(0, [1, 1, 1])),
    ],
)
def test_position_ids_tell_the_layout(positions: list[int], layout: Layout) -> None:
    assert read_layout(torch.tensor(positions)) == layout


@pytest.mark.parametrize("positions", [[1, 2], [0, 1, 0, 1, 1]])
def test_positions_of_no_pack_are_refused(positions: list[int]) -> None:
    with pytest.raises(ValueError, match="not those of a pack"):
        read_layout(torch.tensor(positions))


def test_a_window_matters_only_to_sequences_longer_than_it() -> None:
    short, wide = (make_network(MistralConfig(sliding_window=window, **SIZES)) for window in (4, 64))
    packed_hidden(wide, share_prefix=False)
    with pytest.raises(ModelError, match=r"sliding_window=4 below .* tokens.*set model.attention=sdpa"):
        packed_hidden(short, share_prefix=False)


def test_a_network_that_caps_its_attention_is_refused() -> None:
    with pytest.raises(ModelError, match="Gemma2Attention asks for softcap"):
        packed_hidden(make_network(Gemma2Config(**SIZES)), share_prefix=False)


def test_the_exported_folder_does_not_ask_for_packed_attention(tmp_path: Any) -> None:
    make_network().save_pretrained(tmp_path)
    assert "packed" not in (tmp_path / "config.json").read_text()
    assert LlamaForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
