"""Attention over packed sequences, each for itself, with a common prefix computed once: `model.attention=packed`.

Legend: N tokens packed end to end, n of them of one sequence, m keys that it sees, D size of a head.

The layout is read off the position ids. Where they do not go on by one, the next sequence starts; where it starts at
position r > 0, it continues the first r tokens of the pack, which it shares with all the others. Their keys and values
are the same for every sequence, so this is exact, forward and backward. In bf16 on a GPU one kernel computes the
whole pack (`varlen.py`); elsewhere it is one call of torch's fused attention a sequence, where a mask for the whole
pack would cost N * N products a layer.

Sliding windows are part of a sequence's mask. A cap on the scores and attention sinks, which no fused kernel of torch
knows, are computed from the scores of one sequence at a time.
"""

from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface

from sdft_ray.errors import ModelError
from sdft_ray.models import varlen

PACKED = "packed"
MAX_HEAD_SIZE, HEAD_SIZE_UNIT = 256, 8  # of the flash attention behind `varlen`
NOT_COMPUTED = ("position_bias",)  # what some networks add to their attention


class Layout(NamedTuple):
    """Where the sequences of a pack lie."""

    shared: int  # tokens of the common prefix
    lengths: list[int]  # tokens of each sequence that lie in the pack; the first one's hold the prefix

    def begins(self, index: int) -> int:
        """The position of a sequence's first own token."""
        return self.shared if index else 0


class Pack:
    """A layout with what attention over it needs, the same in every layer of one kind."""

    def __init__(self, layout: Layout, device: torch.device):
        """Makes no mask yet."""
        self.layout = layout
        self._device = device
        self._masks: dict[int, list[torch.Tensor | None]] = {}

    @cached_property
    def borders(self) -> varlen.Borders:
        """The layout as the kernel for a whole pack reads it."""
        return varlen.borders(self.layout.shared, self.layout.lengths, self._device)

    def masks(self, window: int) -> list[torch.Tensor | None]:
        """Of each sequence, which keys [n, m] its queries see; None where plain causality says it.

        Args:
            window: how many tokens back a query sees, itself included; 0 for all.
        """
        if window not in self._masks:
            self._masks[window] = [self._mask(index, window) for index in range(len(self.layout.lengths))]
        return self._masks[window]

    def _mask(self, index: int, window: int) -> torch.Tensor | None:
        begin, length = self.layout.begins(index), self.layout.lengths[index]
        reaches_all = not window or begin + length <= window
        if not begin and reaches_all:
            return None
        seen = torch.ones((length, begin + length), dtype=torch.bool, device=self._device).tril(begin)
        return seen if reaches_all else seen.triu(begin - window + 1)


# By the tensor of position ids, which every layer of a forward pass is handed: reading it waits for the GPU.
_packs: Any = WeakIdKeyDictionary()


def read_layout(position_ids: torch.Tensor) -> Layout:
    """The layout that position ids [N] tell of.

    Raises:
        ValueError: they do not start at 0, or sequences start at different positions.
    """
    positions = position_ids.tolist()
    starts = [index for index in range(1, len(positions)) if positions[index] != positions[index - 1] + 1]
    shared = {positions[start] for start in starts}
    if positions[0] != 0 or len(shared) > 1:
        raise ValueError(f"sequences start at positions {positions[0]} and {sorted(shared)}: not those of a pack")
    ends = [*starts, len(positions)]
    return Layout(shared.pop() if shared else 0, [end - start for start, end in zip([0, *starts], ends, strict=True)])


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_ids: torch.Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within every sequence of a pack; the interface is that of transformers' attention functions.

    Args:
        module: the network's attention module.
        query: [1, heads, N, D].
        key: [1, key-value heads, N, D].
        value: [1, key-value heads, N, D].
        attention_mask: None; the position ids say all there is to know.
        scaling: of the products; None for 1 / sqrt(D).
        dropout: probability.
        position_ids: [1, N]; None for one sequence.
        sliding_window: how many tokens back a query sees, itself included; None for all.
        softcap: bound that a tanh puts on the scores; None for none.
        s_aux: [heads], a score each head's softmax counts without a key, an attention sink; None for none.
        kwargs: what else a network asks of its attention.

    Returns:
        [1, N, heads, D], and no attention weights.

    Raises:
        ModelError: the network asks for more than this; the check of the packing at the start finds it.
    """
    _check(module, attention_mask, kwargs)
    pack = _pack_of(query, position_ids)
    window = sliding_window or 0
    attend = partial(_fused, scaling=scaling, dropout=dropout)
    if softcap is None and s_aux is None and takes_whole_pack(query, value, dropout):
        return varlen.attention(query, key, value, pack.borders, scaling=scaling, window=window), None
    if softcap is not None or s_aux is not None:
        attend = partial(_from_scores, scaling=scaling, dropout=dropout, softcap=softcap, sinks=s_aux)
    shared_key, shared_value = (tensor[:, :, : pack.layout.shared] for tensor in (key, value))
    results = []
    parts = zip(*(tensor.split(pack.layout.lengths, dim=2) for tensor in (query, key, value)), strict=True)
    for index, ((own_query, own_key, own_value), mask) in enumerate(zip(parts, pack.masks(window), strict=True)):
        if pack.layout.begins(index):
            own_key = torch.cat([shared_key, own_key], dim=2)
            own_value = torch.cat([shared_value, own_value], dim=2)
        result = attend(own_query, own_key, own_value, mask)
        # The kernels lay a result out token by token, so this is no copy, nor is what follows with one sequence.
        results.append(result.transpose(1, 2))
    return (torch.cat(results, dim=1) if len(results) > 1 else results[0].contiguous()), None


def takes_whole_pack(query: torch.Tensor, value: torch.Tensor, dropout: float) -> bool:
    """True when `varlen`'s kernel takes queries and values [1, heads, N, D] like these; it has no dropout."""
    size = query.shape[-1]
    fits = size == value.shape[-1] and size <= MAX_HEAD_SIZE and size % HEAD_SIZE_UNIT == 0
    return query.is_cuda and query.dtype == torch.bfloat16 and fits and not dropout


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Attention of one sequence [1, heads, n, D] by torch's own kernels; arguments as `packed_attention`'s."""
    groups = query.shape[1] // key.shape[1]
    if query.is_cuda and groups > 1:  # torch has no fused kernel there for grouped heads with a mask, or in fp32
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def _from_scores(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention of one sequence [1, heads, n, D], its softmax in fp32; arguments as `packed_attention`'s."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    length = query.shape[2]
    seen = torch.ones((length, length), dtype=torch.bool, device=query.device).tril() if mask is None else mask
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    if sinks is not None:
        sink_scores = sinks.to(scores.dtype)[None, :, None, None].expand(1, -1, length, 1)
        scores = torch.cat([scores, sink_scores], dim=-1)
    probs = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    return F.dropout(probs[..., : key.shape[2]], dropout) @ value


def _pack_of(query: torch.Tensor, position_ids: torch.Tensor | None) -> Pack:
    """The pack that position ids [1, N] tell of."""
    if position_ids is None:
        return Pack(Layout(0, [query.shape[2]]), query.device)
    if position_ids not in _packs:
        _packs[position_ids] = Pack(read_layout(position_ids[0]), position_ids.device)
    pack: Pack = _packs[position_ids]
    return pack


def _check(module: torch.nn.Module, attention_mask: torch.Tensor | None, kwargs: dict[str, Any]) -> None:
    unknown = [name for name in NOT_COMPUTED if kwargs.get(name) is not None]
    unknown += ["a mask of its own"] if attention_mask is not None else []
    if unknown:
        raise ModelError(
            f"model.attention={PACKED}: {type(module).__name__} asks for {', '.join(unknown)}, which is not computed; "
            "set model.attention=sdpa."
        )


AttentionInterface.register(PACKED, packed_attention)
