"""The state of networks that keep weights in buffers."""

import pytest
import torch

from sdft_ray.models.state import copy_buffers, published_buffers, published_state, saved_buffers
from tests.buffered import FAMILIES, NUM_BUFFERS, make_buffered


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_buffers_are_part_of_the_state_and_made_ones_are_not(family: str) -> None:
    network = make_buffered(family)
    assert len(saved_buffers(network)) == NUM_BUFFERS[family]
    state = published_state(network)
    assert state.keys() == dict(network.named_parameters()).keys() | saved_buffers(network).keys()
    assert not any("inv_freq" in name or "embed_scale" in name for name in state)


def test_integers_are_saved_but_do_not_travel() -> None:
    norm = torch.nn.BatchNorm1d(3)
    assert "num_batches_tracked" in saved_buffers(norm)
    assert published_buffers(norm).keys() == {"running_mean", "running_var"}


def test_copied_buffers_keep_the_dtype_of_their_values() -> None:
    network = make_buffered("deepseek_v3")
    values = {name: value.clone() + 1.0 for name, value in saved_buffers(network).items()}
    network.bfloat16()  # as DeepSpeed does
    copy_buffers(network, values)
    (held,) = saved_buffers(network).values()
    (expected,) = values.values()
    assert held.dtype is torch.float32
    assert torch.equal(held, expected)
