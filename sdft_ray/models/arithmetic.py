"""What a decoder-only network costs: parameters, floating point operations, bytes. Exact counts, from its shape alone.

Legend: N tokens of a forward pass, T of them through the head, C tokens each of them attends to, H hidden size,
F intermediate size, Q = heads * head_dim, K = key-value heads * head_dim, R rows of the head.
A multiplication with its addition counts as two operations; norms, activation functions and softmax count as none.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

from sdft_ray.errors import ModelError
from sdft_ray.models.folder import read_config, without_weights
from sdft_ray.models.lean_layers import GATED

BACKWARD_OVER_FORWARD = 2  # a product with the inputs and one with the weights, for each of the forward pass
FP32_BYTES = 4
ADAMW_BYTES_PER_PARAMETER = 2 * FP32_BYTES  # both moments
# The largest size of each key that is believed; ten times the largest known. More layers than that take minutes.
SIZES = {
    "hidden_size": 10**6,
    "num_hidden_layers": 2000,
    "num_attention_heads": 10**4,
    "num_key_value_heads": 10**4,
    "head_dim": 10**5,
    "intermediate_size": 10**7,
    "vocab_size": 10**7,
    "max_position_embeddings": 10**9,
    "num_experts": 10**6,
    "num_local_experts": 10**6,
    "num_experts_per_tok": 10**4,
}
QK_NORM = re.compile(r"\.(q|k|query|key)_?(layer)?norm\.")


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkShape:
    """The sizes that decide what a network costs."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int  # of the gated layer a token passes; of all its experts together
    vocab_size: int  # rows of the head, padding included
    tied_head: bool  # whether head and embedding are one parameter
    context_length: int  # tokens of prompt and completion together
    parameter_sizes: tuple[int, ...]  # elements of each parameter, tied ones once, all experts
    matrix_elements: int  # of the matrices every token is multiplied with in all layers, of experts those it is sent to
    norms_per_layer: int  # of size H
    normed_qk: bool  # whether queries and keys have norms of their own
    lean: bool  # whether norms and gated layers are those of `lean_layers` in fp32

    @property
    def num_parameters(self) -> int:
        """Elements of all parameters together."""
        return sum(self.parameter_sizes)

    @property
    def has_experts(self) -> bool:
        """True when a token is multiplied with a part of the matrices alone."""
        return self.num_parameters > 1.1 * (self.matrix_elements + 2 * self.head_parameters)

    @property
    def query_size(self) -> int:
        """Q."""
        return self.num_heads * self.head_dim

    @property
    def key_size(self) -> int:
        """K."""
        return self.num_kv_heads * self.head_dim

    @property
    def head_parameters(self) -> int:
        """R * H: of the head, and of the embedding as well."""
        return self.vocab_size * self.hidden_size


def read_shape(path: str | Path) -> NetworkShape:
    """The shape of the model whose config.json is `path`, or lies in the folder `path`; nothing else is read.

    Raises:
        ModelError: there is no config.json, or transformers knows no such language model, or it has no attention.
    """
    return shape_of(read_config(path).get_text_config(), path)


def shape_of(config: PreTrainedConfig, source: str | Path = "config.json") -> NetworkShape:
    """The shape of the network that transformers builds from a text model's config, counted on the meta device.

    Layers without attention count as if they had it, so the KV cache of a hybrid network is an upper bound.

    Args:
        config: of the language model alone.
        source: where it comes from, for messages.

    Raises:
        ModelError: transformers knows no such language model, it has no attention heads, or a size is impossible.
    """
    heads = getattr(config, "num_attention_heads", None)
    if heads is None or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"{source}: model_type={config.model_type} is no language model with attention heads that transformers can "
            "build; take another model."
        )
    check_sizes(config.to_dict(), source)
    network = without_weights(config, source)
    hidden, num_layers = config.hidden_size, config.num_hidden_layers
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    elements = round(sum(_elements_per_token(network, config)))
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    gated = round((elements / num_layers - attention) / (3 * hidden))
    kinds = {type(module).__name__ for module in network.modules()}
    head = network.get_output_embeddings().weight
    return NetworkShape(
        hidden_size=hidden,
        num_layers=num_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=max(0, gated),
        vocab_size=head.shape[0],
        tied_head=head is network.get_input_embeddings().weight,
        context_length=config.max_position_embeddings,
        parameter_sizes=tuple(parameter.numel() for parameter in network.parameters()),
        matrix_elements=elements,
        norms_per_layer=sum(_is_norm_of(name, parameter, hidden) for name, parameter in _in_layers(network))
        // num_layers,
        normed_qk=any(QK_NORM.search(name) for name, _ in _in_layers(network)),
        lean=bool(kinds & set(GATED)) and config.hidden_act == "silu",
    )


def check_sizes(keys: Mapping[str, Any], source: str | Path) -> None:
    """Refuses sizes of a config of which transformers makes a network nobody could run, or makes one for hours.

    Raises:
        ModelError: names `source` and the size.
    """
    sizes = {key: keys[key] for key in SIZES if keys.get(key) is not None}
    for key, size in sizes.items():
        smallest = 0 if "experts" in key else 1
        of_layers = size if isinstance(size, list) and size and key == "intermediate_size" else [size]
        if not all(type(each) is int and smallest <= each <= SIZES[key] for each in of_layers):
            problem = f"is no whole number from {smallest} to {SIZES[key]:,}"
            raise ModelError(f"{source}: {key}={size} {problem}; mend that value.")
    parts = [("num_attention_heads", "num_key_value_heads")]
    parts += [] if "head_dim" in sizes else [("hidden_size", "num_attention_heads")]
    for whole, part in parts:
        if whole in sizes and part in sizes and sizes[whole] % sizes[part]:
            raise ModelError(
                f"{source}: {whole}={sizes[whole]} is no multiple of {part}={sizes[part]}; mend one of them."
            )


def _in_layers(network: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters whose name has a number in it."""
    return ((name, parameter) for name, parameter in network.named_parameters() if re.search(r"\.\d+\.", name))


def _elements_per_token(network: PreTrainedModel, config: PreTrainedConfig) -> Iterator[float]:
    """Of each matrix in the layers, what one token is multiplied with: of experts those that it is sent to.

    Experts are one parameter [experts, rows, columns]; a convolution has three dimensions, too, but one row.
    """
    per_token = getattr(config, "num_experts_per_tok", None) or 0
    for _, parameter in _in_layers(network):
        if parameter.ndim < 2:
            continue
        is_experts = per_token > 0 and parameter.ndim == 3 and parameter.shape[1] > 1
        yield parameter.numel() * (per_token / parameter.shape[0] if is_experts else 1)


def _is_norm_of(name: str, parameter: nn.Parameter, hidden_size: int) -> bool:
    is_norm = "norm" in name and name.endswith(".weight") and tuple(parameter.shape) == (hidden_size,)
    return is_norm and not QK_NORM.search(name)


def forward_flops(shape: NetworkShape, num_tokens: int, *, context: float, head_rows: int) -> float:
    """Operations of one forward pass.

    Args:
        shape: of the network.
        num_tokens: N.
        context: C, in the mean over the N tokens: (N + 1) / 2 for one sequence under a kernel that skips what causality
            hides, N under one that computes and masks it, the length of the cache in decoding.
        head_rows: T, tokens whose logits are wanted.
    """
    matrices = 2 * num_tokens * shape.matrix_elements
    attention = 4 * num_tokens * context * shape.num_layers * shape.query_size
    return matrices + attention + 2 * head_rows * shape.head_parameters


def training_flops(
    shape: NetworkShape,
    num_tokens: int,
    *,
    context: float,
    head_rows: int,
    checkpointing: bool = False,
    frozen: bool = False,
) -> float:
    """Operations of forward and backward; with `checkpointing` the layers run forward once more.

    Weights that are `frozen`, beside an adapter, need no gradient: half of the backward pass.
    """
    forward = forward_flops(shape, num_tokens, context=context, head_rows=head_rows)
    again = forward_flops(shape, num_tokens, context=context, head_rows=0) if checkpointing else 0
    return forward * (1 + BACKWARD_OVER_FORWARD / (2 if frozen else 1)) + again


def weight_bytes(shape: NetworkShape, element_bytes: int) -> int:
    """All weights, tied ones once."""
    return shape.num_parameters * element_bytes


def kv_cache_bytes_per_token(shape: NetworkShape, element_bytes: int) -> int:
    """Keys and values of all layers."""
    return 2 * shape.num_layers * shape.key_size * element_bytes


def activation_bytes(shape: NetworkShape, num_tokens: int, element_bytes: int, *, checkpointing: bool = False) -> int:
    """What a forward pass of `num_tokens` keeps for the backward pass; head and loss are left out.

    For a pack of several sequences under `packed` attention; under `sdpa` its `sdpa_bytes` come on top. With
    `checkpointing` only the layers' inputs stay, and one layer at a time is made again.
    """
    lean = shape.lean and element_bytes == FP32_BYTES
    # transformers' RMS norm keeps its input, the normalised input in fp32, and its own result.
    norm = 2 * element_bytes + (0 if lean else FP32_BYTES)
    norms = norm * shape.norms_per_layer * shape.hidden_size
    # Rotation and attention have no use for the result of those of queries and keys.
    norms += (norm - element_bytes) * (shape.query_size + shape.key_size) * shape.normed_qk
    attention = (
        3 * shape.query_size + 2 * shape.key_size
    ) * element_bytes  # queries, keys, values, results, their pack
    # The gate and the other branch; transformers' keeps the activation and the product of both, too.
    gated = (2 if lean else 4) * shape.intermediate_size * element_bytes
    layer = norms + attention + gated
    kept = shape.num_layers * shape.hidden_size * element_bytes + layer if checkpointing else shape.num_layers * layer
    return num_tokens * (kept + norm * shape.hidden_size)


def sdpa_bytes(shape: NetworkShape, num_tokens: int, element_bytes: int) -> int:
    """What `sdpa` keeps of a pack beyond `packed`: a mask [N, N] a layer, keys and values of every query head."""
    repeated = num_tokens * (shape.query_size - 2 * shape.key_size)
    return shape.num_layers * (num_tokens**2 + repeated) * element_bytes


def inference_bytes(shape: NetworkShape, num_tokens: int, element_bytes: int) -> int:
    """The most that one forward pass without gradients holds at a time: inside a gated layer, the logits left out."""
    return num_tokens * element_bytes * (2 * shape.hidden_size + 3 * shape.intermediate_size)
