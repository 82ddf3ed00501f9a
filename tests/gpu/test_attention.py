"""Packed attention and the network around it on a GPU: every sequence as if it were alone."""

import pytest
import torch

from sdft_ray.models import attention, varlen
from tests.models.test_attention import make_network, one_by_one, packed_hidden
from tests.models.test_varlen import kernel_by_definition

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


@pytest.mark.parametrize("window", [0, 5, 64])
@pytest.mark.parametrize("num_key_heads", [2, 8])
@pytest.mark.parametrize("shared", [0, 20])
def test_one_kernel_for_a_pack_computes_what_torch_documents(shared: int, num_key_heads: int, window: int) -> None:
    torch.manual_seed(0)
    lengths = [37, 64, 1, 130]
    query, key, value = (
        torch.randn(1, heads, sum(lengths), 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads in (8, num_key_heads, num_key_heads)
    )
    assert attention.takes_whole_pack(query, value, 0.0)
    found = varlen.attention(
        query, key, value, varlen.borders(shared, lengths, query.device), scaling=None, window=window
    )
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in (query, key, value)]
    expected = varlen.attention(
        *exact,
        varlen.borders(shared, lengths, torch.device("cpu")),
        scaling=None,
        window=window,
        kernel=kernel_by_definition,
    )
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((found * weights.to(found)).sum(), (query, key, value))
    others = torch.autograd.grad((expected * weights).sum(), exact)
    for mine, other in zip([found, *gradients], [expected, *others], strict=True):
        assert (mine.cpu().double() - other).norm() <= 0.02 * other.norm()
