"""Packed attention against one forward pass a sequence, without any packing: hidden states and gradients."""

import copy
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, LlamaConfig, LlamaForCausalLM, MistralConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from sdft_ray.errors import ModelError
from sdft_ray.models.attention import Layout, packed_attention, read_layout
from sdft_ray.models.network import completion_hidden
from sdft_ray.models.packing import pack_sequences
from tests.models.test_network import SIZES

PREFIX = (11, 12, 13, 14)
SEQUENCES = [
    ((*PREFIX, 1, 2, 3), (4, 5)),
    ((*PREFIX, 6), (7, 8, 9)),
    ((*PREFIX, 1, 2), (10,)),
]
WITHOUT_WINDOW = MistralConfig(sliding_window=None, **SIZES)
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


WINDOW = 4  # below the sequences, and below prefix and own tokens together
NARROW = {
    "window": MistralConfig(sliding_window=WINDOW, **SIZES),
    "window and cap": Gemma2Config(sliding_window=WINDOW, attn_logit_softcapping=0.5, **SIZES),
}


@pytest.mark.parametrize("share_prefix", [False, True])
@pytest.mark.parametrize("kind", NARROW)
def test_windows_and_caps_are_those_of_plain_attention(kind: str, share_prefix: bool) -> None:
    packed, plain = make_network(NARROW[kind]), make_network(NARROW[kind], attention="eager")
    mine, expected = packed_hidden(packed, share_prefix=share_prefix), one_by_one(plain)
    # The softmax is rounded to fp32, here and there.
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (mine * weights).sum().backward()
    (expected * weights).sum().backward()
    others = dict(plain.named_parameters())
    for name, parameter in packed.named_parameters():
        if parameter.grad is not None:
            error = (parameter.grad - others[name].grad).abs().max()
            assert error <= 1e-4 * others[name].grad.abs().max() + 1e-7, name


def test_a_window_is_counted_from_a_sequences_own_beginning() -> None:
    wide = MistralConfig(sliding_window=64, **SIZES)
    alone, narrow = make_network(wide), make_network(NARROW["window"])
    assert torch.equal(
        packed_hidden(alone, share_prefix=True), packed_hidden(make_network(WITHOUT_WINDOW), share_prefix=True)
    )
    assert not torch.allclose(packed_hidden(narrow, share_prefix=True), packed_hidden(alone, share_prefix=True))


def test_a_mask_of_the_networks_own_is_refused() -> None:
    mask = torch.zeros(1, 1, 2, 2)
    states = torch.zeros(1, 2, 2, 16)
    with pytest.raises(ModelError, match="Linear asks for a mask of its own"):
        packed_attention(torch.nn.Linear(1, 1), states, states, states, mask)


def test_the_exported_folder_does_not_ask_for_packed_attention(tmp_path: Any) -> None:
    make_network().save_pretrained(tmp_path)
    assert "packed" not in (tmp_path / "config.json").read_text()
    assert LlamaForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
