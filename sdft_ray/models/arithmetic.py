"""What a decoder-only network costs: parameters, floating point operations, bytes. Exact counts, from its shape alone.

Legend: N tokens of a forward pass, T of them through the head, C tokens each of them attends to, H hidden size,
F intermediate size, Q = heads * head_dim, K = key-value heads * head_dim, R rows of the head.
A multiplication with its addition counts as two operations; norms, activation functions and softmax count as none.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from transformers import AutoConfig, PreTrainedConfig

from sdft_ray.errors import ModelError

BACKWARD_OVER_FORWARD = 2  # a product with the inputs and one with the weights, for each of the forward pass
FP32_BYTES = 4
ADAMW_BYTES_PER_PARAMETER = 2 * FP32_BYTES  # both moments


class _Family(NamedTuple):
    """What a config.json does not say of a model type, all of which have gated layers and RMS norms."""

    norms_per_layer: int = 2  # of size H
    biased_qkv: bool = False  # whatever the config says
    normed_qk: bool = False  # queries and keys have norms of their own, of size head_dim
    lean: bool = False  # `lean_layers` knows its norms and gated layers


_FAMILIES = {
    "llama": _Family(lean=True),
    "mistral": _Family(lean=True),
    "phi3": _Family(),
    "granite": _Family(),
    "qwen2": _Family(biased_qkv=True, lean=True),
    "qwen3": _Family(normed_qk=True, lean=True),
    "gemma2": _Family(norms_per_layer=4),
    "gemma3_text": _Family(norms_per_layer=4, normed_qk=True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkShape:
    """The sizes that decide what a network costs."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int  # rows of embedding and head, padding included
    tied_head: bool  # whether head and embedding are one parameter
    context_length: int  # tokens of prompt and completion together
    norms_per_layer: int = 2
    normed_qk: bool = False
    bias_elements_per_layer: int = 0
    lean: bool = False  # whether norms and gated layers are those of `lean_layers` in fp32

    @property
    def query_size(self) -> int:
        """Q."""
        return self.num_heads * self.head_dim

    @property
    def key_size(self) -> int:
        """K."""
        return self.num_kv_heads * self.head_dim

    @property
    def matrix_elements_per_layer(self) -> int:
        """Elements of the matrices every token is multiplied with in one layer."""
        attention = 2 * self.hidden_size * (self.query_size + self.key_size)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        norms = self.norms_per_layer * self.hidden_size + 2 * self.head_dim * self.normed_qk
        return self.matrix_elements_per_layer + norms + self.bias_elements_per_layer

    @property
    def head_parameters(self) -> int:
        """R * H: of the head, and of the embedding as well."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All parameters, tied ones once."""
        return (
            self.num_layers * self.layer_parameters
            + self.head_parameters * (1 if self.tied_head else 2)
            + self.hidden_size
        )


def read_shape(folder: str | Path) -> NetworkShape:
    """The shape of the model in `folder`, of which only config.json is read.

    Raises:
        ModelError: there is no config.json, or it describes a network whose parts are not known here.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ModelError(f"{folder}: there is no config.json; give a folder that save_pretrained has written.")
    config: PreTrainedConfig = AutoConfig.from_pretrained(path).get_text_config()
    return shape_of(config)


def shape_of(config: PreTrainedConfig) -> NetworkShape:
    """The shape a text model's config describes.

    Raises:
        ModelError: it describes a network whose parts are not known here.
    """
    family = _FAMILIES.get(config.model_type)
    if family is None:
        raise ModelError(
            f"model_type={config.model_type}: which parts such a network has is not known here; take a model of type "
            f"{', '.join(sorted(_FAMILIES))}, or add its type to sdft_ray/models/arithmetic.py."
        )
    hidden, heads = config.hidden_size, config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    kv_heads = config.num_key_value_heads
    biases = 0
    if family.biased_qkv or getattr(config, "attention_bias", False):
        biases += (heads + 2 * kv_heads) * head_dim
    if getattr(config, "attention_bias", False):
        biases += hidden
    if getattr(config, "mlp_bias", False):
        biases += 2 * config.intermediate_size + hidden
    return NetworkShape(
        hidden_size=hidden,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        tied_head=config.tie_word_embeddings,
        context_length=config.max_position_embeddings,
        norms_per_layer=family.norms_per_layer,
        normed_qk=family.normed_qk,
        bias_elements_per_layer=biases,
        lean=family.lean and config.hidden_act == "silu",
    )


def forward_flops(shape: NetworkShape, num_tokens: int, *, context: float, head_rows: int) -> float:
    """Operations of one forward pass.

    Args:
        shape: of the network.
        num_tokens: N.
        context: C, in the mean over the N tokens: (N + 1) / 2 for one sequence under a kernel that skips what causality
            hides, N under one that computes and masks it, the length of the cache in decoding.
        head_rows: T, tokens whose logits are wanted.
    """
    matrices = 2 * num_tokens * shape.num_layers * shape.matrix_elements_per_layer
    attention = 4 * num_tokens * context * shape.num_layers * shape.query_size
    return matrices + attention + 2 * head_rows * shape.head_parameters


def training_flops(
    shape: NetworkShape, num_tokens: int, *, context: float, head_rows: int, checkpointing: bool = False
) -> float:
    """Operations of forward and backward; with `checkpointing` the layers run forward once more."""
    forward = forward_flops(shape, num_tokens, context=context, head_rows=head_rows)
    again = forward_flops(shape, num_tokens, context=context, head_rows=0) if checkpointing else 0
    return forward * (1 + BACKWARD_OVER_FORWARD) + again


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
