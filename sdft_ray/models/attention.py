"""Attention over packed sequences, each for itself, with a common prefix computed once: `model.attention=packed`.

Legend: N tokens packed end to end, D size of a head.

The layout is read off the position ids. Where they do not go on by one, the next sequence starts; where it starts at
position r > 0, it continues the first r tokens of the pack, which it shares with all the others. Their keys and values
are the same for every sequence, so this is exact, forward and backward. What a varlen kernel does on a GPU, and masks
do at the price of N * N products and a mask a layer, is here one call of torch's fused attention a sequence.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface

from sdft_ray.errors import ModelError

PACKED = "packed"
NOT_COMPUTED = ("softcap", "s_aux", "position_bias")  # what some networks add to their attention


class Layout(NamedTuple):
    """Where the sequences of a pack lie."""

    shared: int  # tokens of the common prefix
    lengths: list[int]  # tokens of each sequence that lie in the pack; the first one's hold the prefix


class Pack(NamedTuple):
    """A layout with what attention over it needs, the same in every layer."""

    layout: Layout
    masks: list[torch.Tensor | None]  # of each sequence: which keys its queries see; None where causal says it


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
        kwargs: what else a network asks of its attention.

    Returns:
        [1, N, heads, D], and no attention weights.

    Raises:
        ModelError: the network asks for more than causal attention.
    """
    layout, masks = Pack(Layout(0, [query.shape[2]]), [None]) if position_ids is None else _pack_of(position_ids)
    _check(module, kwargs, layout)
    shared_key, shared_value = key[:, :, : layout.shared], value[:, :, : layout.shared]
    results = []
    parts = zip(*(tensor.split(layout.lengths, dim=2) for tensor in (query, key, value)), masks, strict=True)
    for own_query, own_key, own_value, mask in parts:
        if mask is not None:
            own_key = torch.cat([shared_key, own_key], dim=2)
            own_value = torch.cat([shared_value, own_value], dim=2)
        result = F.scaled_dot_product_attention(
            own_query,
            own_key,
            own_value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        # The kernels lay a result out token by token, so this is no copy, nor is what follows with one sequence.
        results.append(result.transpose(1, 2))
    return (torch.cat(results, dim=1) if len(results) > 1 else results[0].contiguous()), None


def _pack_of(position_ids: torch.Tensor) -> Pack:
    """The pack that position ids [1, N] tell of."""
    if position_ids not in _packs:
        layout = read_layout(position_ids[0])
        masks: list[torch.Tensor | None] = [None] * len(layout.lengths)
        for index, length in enumerate(layout.lengths[1:] if layout.shared else [], start=1):
            shape = (length, layout.shared + length)
            masks[index] = torch.ones(shape, dtype=torch.bool, device=position_ids.device).tril(layout.shared)
        _packs[position_ids] = Pack(layout, masks)
    pack: Pack = _packs[position_ids]
    return pack


def _check(module: torch.nn.Module, kwargs: dict[str, Any], layout: Layout) -> None:
    longest = layout.shared + max(layout.lengths)
    window = kwargs.get("sliding_window")
    unknown = [name for name in NOT_COMPUTED if kwargs.get(name) is not None]
    if window is not None and longest > window:
        unknown.append(f"sliding_window={window} below {longest} tokens")
    if unknown:
        raise ModelError(
            f"model.attention={PACKED}: {type(module).__name__} asks for {', '.join(unknown)}, which is not computed; "
            "set model.attention=sdpa, or flash_attention_2 on GPUs."
        )


AttentionInterface.register(PACKED, packed_attention)
