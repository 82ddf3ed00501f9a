"""Packed attention and the network around it on a GPU: every sequence as if it were alone."""

import pytest
import torch

from tests.models.test_attention import make_network, one_by_one, packed_hidden

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("share_prefix", [False, True])
def test_hidden_states_and_gradients_are_those_of_the_cpu(share_prefix: bool, dtype: torch.dtype) -> None:
    expected_network, network = make_network(attention="sdpa"), make_network().to("cuda", dtype)
    expected, found = one_by_one(expected_network), packed_hidden(network, share_prefix=share_prefix, device="cuda")
    expected.sum().backward()
    found.sum().backward()
    torch.testing.assert_close(found.cpu().double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    mine, others = (dict(each.named_parameters()) for each in (network, expected_network))
    for name, parameter in mine.items():
        if parameter.grad is not None:
            error = (parameter.grad.cpu().double() - others[name].grad).abs().max()
            assert error <= 5 * TOLERANCE[dtype] * others[name].grad.abs().max(), name
