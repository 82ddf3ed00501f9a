"""The arithmetic of one call for a whole pack, with a kernel that computes by definition, against a call a sequence."""

import inspect
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import MistralConfig

from sdft_ray.models import attention, varlen
from sdft_ray.models.attention import packed_attention
from tests.models.test_attention import make_network, one_by_one, packed_hidden
from tests.models.test_network import SIZES

SHARED = 3
LENGTHS = [7, 4, 6]  # tokens that lie in the pack


def kernel_by_definition(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What torch documents of its kernel: [T, heads, D]; windows are aligned to the last query and the last key."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (cu_seq_q.diff().max(), cu_seq_k.diff().max()) == (max_q, max_k)
    assert (cu_seq_q[-1], cu_seq_k[-1]) == (len(query), len(key))
    assert enable_gqa == (query.shape[1] != key.shape[1])
    groups = query.shape[1] // key.shape[1]
    left, right = window_size
    results = []
    for index in range(len(cu_seq_q) - 1):
        own_query = query[cu_seq_q[index] : cu_seq_q[index + 1]]
        own_key, own_value = (
            states[cu_seq_k[index] : cu_seq_k[index + 1]].repeat_interleave(groups, dim=1) for states in (key, value)
        )
        behind = len(own_key) - len(own_query)
        distance = torch.arange(len(own_query))[:, None] + behind - torch.arange(len(own_key))  # from key to query
        hidden = (distance < -right) | ((distance > left) if left >= 0 else torch.tensor(False))
        scores = torch.einsum("qhd,khd->hqk", own_query, own_key) * (scale or query.shape[-1] ** -0.5)
        probs = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        results.append(torch.einsum("hqk,khd->qhd", probs, own_value))
    return torch.cat(results)


def states(num_heads: int) -> torch.Tensor:
    tensor = torch.randn(1, num_heads, sum(LENGTHS), 8, dtype=torch.float64)
    return tensor.requires_grad_()


@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("window", [0, 1, 4, 64])  # 4 begins within the prefix for some queries
@pytest.mark.parametrize("num_key_heads", [2, 4])
@pytest.mark.parametrize("shared", [0, SHARED])
def test_one_call_for_a_pack_is_a_call_for_each_sequence(
    shared: int, num_key_heads: int, window: int, scaling: float | None
) -> None:
    torch.manual_seed(0)
    query, key, value = states(4), states(num_key_heads), states(num_key_heads)
    starts = [0, *([shared] * (len(LENGTHS) - 1))]
    positions = [start + index for start, length in zip(starts, LENGTHS, strict=True) for index in range(length)]
    expected, _ = packed_attention(
        torch.nn.Identity(),
        query,
        key,
        value,
        None,
        scaling=scaling,
        position_ids=torch.tensor([positions]),
        sliding_window=window or None,
    )
    found = varlen.attention(
        query,
        key,
        value,
        varlen.borders(shared, LENGTHS, torch.device("cpu")),
        scaling=scaling,
        window=window,
        kernel=kernel_by_definition,
    )
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((each * weights).sum(), (query, key, value)) for each in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("share_prefix", [False, True])
def test_a_network_with_windows_computes_the_same_with_it(share_prefix: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MistralConfig(sliding_window=4, **(SIZES | {"num_attention_heads": 4}))
    expected = one_by_one(make_network(config, attention="eager"))
    calls = []

    def kernel(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(args)
        return kernel_by_definition(*args, **kwargs)

    monkeypatch.setattr(attention, "takes_whole_pack", lambda *_: True)
    monkeypatch.setattr(varlen, "attention", partial(varlen.attention, kernel=kernel))
    found = packed_hidden(make_network(config), share_prefix=share_prefix)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(calls) == config.num_hidden_layers  # one for a layer, not for a sequence


def test_the_kernel_of_torch_takes_what_it_is_handed() -> None:
    mine, theirs = (inspect.signature(each).parameters for each in (kernel_by_definition, varlen_attn))
    assert [*mine] == [name for name in theirs if name in mine]
    assert all(theirs[name].kind == parameter.kind for name, parameter in mine.items())


def test_the_kernel_is_not_asked_for_what_it_does_not_compute() -> None:
    """Elsewhere than in half precision on a GPU, with dropout, or with values of another size than the queries."""

    class OnGpu:  # a tensor's place, kind and shape, as a GPU would have it
        is_cuda = True

        def __init__(self, size: int, dtype: Any = torch.bfloat16):
            self.shape, self.dtype = (1, 4, 17, size), dtype

    def computes(query: Any, value: Any, dropout: float = 0.0) -> bool:
        return attention.takes_whole_pack(query, value, dropout)

    assert computes(OnGpu(128), OnGpu(128))
    assert not computes(OnGpu(128), OnGpu(128), dropout=0.1)
    assert not computes(OnGpu(192), OnGpu(128))
    assert not computes(OnGpu(512), OnGpu(512))
    assert not computes(OnGpu(20), OnGpu(20))
    assert not computes(OnGpu(128, torch.float32), OnGpu(128, torch.float32))
    assert not computes(torch.zeros(1, 4, 17, 64, dtype=torch.bfloat16), torch.zeros(1, 4, 17, 64))
