"""The network as teacher and learner run it: packed sequences in, hidden states of the completion positions out.

The head is not the network's business: teacher and learner multiply with it in pieces (`distill.distributions.Head`).
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from sdft_ray.config import AdapterConfig, ModelConfig, Precision
from sdft_ray.distill.distributions import Head
from sdft_ray.errors import ConfigError, ModelError, first_line
from sdft_ray.models import attention  # noqa: F401 - makes model.attention=packed known to transformers
from sdft_ray.models.adapter import add_adapter
from sdft_ray.models.folder import read_config, without_weights
from sdft_ray.models.lean_layers import make_lean
from sdft_ray.models.state import published_state

TORCH_DTYPE = {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16}

PLAIN, FUSED = "eager", "sdpa"  # transformers' own implementations, of which every network has one
WEIGHTS_FILE, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
PROBE_TOKENS = 4
PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}  # of the largest logit


def load_network(
    path: str, precision: Precision, model: ModelConfig, adapter: AdapterConfig | None = None, **kwargs: Any
) -> PreTrainedModel:
    """Loads a causal language model whose position ids, restarting at 0, separate packed sequences; with `adapter`.

    Raises:
        ModelError: the folder lacks weights of the network, which transformers would make up at random, or a weight
            is NaN or infinite.
        ConfigError: the network does not have `model.attention`, or not on this machine.
    """
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(read_config(path)), None)
    if kind is None or kind._can_set_attn_implementation():  # else it has an implementation of its own
        kwargs["attn_implementation"] = model.attention
    try:
        network, loaded = AutoModelForCausalLM.from_pretrained(
            path, dtype=TORCH_DTYPE[precision], output_loading_info=True, **kwargs
        )
    except ImportError as error:
        if "flash" not in model.attention:  # whose package the driver may lack, and so does not ask for
            raise
        raise ConfigError(
            "model.attention", model.attention, first_line(error).rstrip("."), "set model.attention=packed"
        ) from error
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise ModelError(
            f"{path} holds no weights for {len(missing)} parameters of "
            f"{type(network).__name__}, such as {missing[0]}; save or download the model anew."
        )
    check_finite(path, published_state(network).items())
    network.config.use_cache = False
    add_adapter(network, adapter or AdapterConfig())
    if precision is Precision.FLOAT32:
        make_lean(network)
    return network


def is_finite(tensor: torch.Tensor) -> bool:
    """True when no value is NaN or infinite, which integers never are."""
    held = tensor.detach()
    if not held.is_floating_point() or not held.numel():
        return True
    # The extremes are NaN where any value is; no copy is made, as `isfinite` would.
    return all(bool(extreme.isfinite()) for extreme in held.aminmax())


def check_finite(where: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuses weights with a value that is NaN or infinite: `ModelError`, with the name of the first such tensor."""
    for name, tensor in tensors:
        if not is_finite(tensor):
            raise ModelError(
                f"{where}: {name} holds NaN or infinite values; download or copy the model anew, or take a checkpoint "
                "from before its training went wrong."
            )


def completion_hidden(
    network: PreTrainedModel, input_ids: torch.Tensor, position_ids: torch.Tensor, predictor_index: torch.Tensor
) -> torch.Tensor:
    """Hidden states after the final norm at the positions that predict completion tokens.

    Args:
        network: a causal language model; its head is not run.
        input_ids: [N] of several sequences one after the other, without padding.
        position_ids: [N]. Where they restart a sequence begins: `packed` attention and, for restarts at 0,
            transformers' own implementations read the borders off them and keep attention within each sequence.
        predictor_index: [T] positions whose hidden states are wanted.

    Returns:
        [T, H] in the network's dtype.
    """
    output = _decoder(network)(input_ids=input_ids[None], position_ids=position_ids[None], use_cache=False)
    return output.last_hidden_state[0, predictor_index]


def _decoder(network: PreTrainedModel) -> torch.nn.Module:
    """The network without its head."""
    decoder = network.get_decoder()
    # Where the name of the inner network is not the one transformers looks for (Llama 4), it answers the whole.
    return network.model if decoder is network else decoder


def chooses_attention(network: PreTrainedModel) -> bool:
    """True when the network computes attention with any implementation; some have only their own."""
    chooses: bool = network._can_set_attn_implementation()
    return chooses


def set_attention(network: PreTrainedModel, implementation: str) -> None:
    """Has the network compute attention with `implementation`, where it can choose.

    Raises:
        ValueError: the network has no such implementation.
    """
    if chooses_attention(network):
        network.set_attn_implementation(implementation)


def set_plain_attention(network: PreTrainedModel) -> None:
    """Has the network compute attention as transformers defines it, in matrix products that keep every score."""
    try:
        set_attention(network, PLAIN)
    except ValueError:
        set_attention(network, FUSED)


@contextmanager
def plain_attention(network: PreTrainedModel) -> Iterator[None]:
    """Computes with plain attention inside the block, and after it as before."""
    before = network.config._attn_implementation
    set_plain_attention(network)
    try:
        yield
    finally:
        set_attention(network, before)


def train_as_configured(network: PreTrainedModel) -> None:
    """Puts the network into training mode, with whatever its configuration makes random."""
    network.train()
    for layer in network.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            recompute = layer._gradient_checkpointing_func
            if isinstance(recompute, _RecomputeAsSampled):
                layer._gradient_checkpointing_func = recompute.recompute


def train_as_sampled(network: PreTrainedModel) -> None:
    """Puts the network into the mode it samples in, without dropout or router noise, also for its training.

    Layers that can recompute their activations do so only when they are told that they train. They are told so where
    they are asked, and no longer where they compute: some draw dropout themselves.
    """
    network.eval()
    for layer in network.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            layer.training = True
            if not isinstance(layer._gradient_checkpointing_func, _RecomputeAsSampled):
                layer._gradient_checkpointing_func = _RecomputeAsSampled(layer, layer._gradient_checkpointing_func)


class _RecomputeAsSampled(NamedTuple):
    """Computes a layer, and computes it again in the backward pass, without what is random in training."""

    layer: torch.nn.Module
    recompute: Callable[..., Any]  # torch's checkpointing

    def __call__(self, forward: Callable[..., Any], *args: Any) -> Any:
        return self.recompute(self._as_sampled, forward, *args)

    def _as_sampled(self, forward: Callable[..., Any], *args: Any) -> Any:
        self.layer.training = False
        try:
            return forward(*args)
        finally:
            self.layer.training = True


def is_noise(name: str, value: object) -> bool:
    """True when a setting of a network makes its training random: a share above 0 of dropout or router jitter."""
    return isinstance(value, float) and value > 0 and ("drop" in name or "jitter" in name)


def configured_noise(network: PreTrainedModel) -> dict[str, float]:
    """What of a network's configuration makes its training random."""
    settings = network.config.get_text_config().to_dict()
    return {name: value for name, value in settings.items() if is_noise(name, value)}


def output_head(network: PreTrainedModel) -> Head:
    """The head as `Head` describes it; its parameters are the network's own.

    Raises:
        ModelError: the network has no output embeddings.
    """
    output = network.get_output_embeddings()
    if output is None:
        raise ModelError(f"{type(network).__name__} has no output embeddings; take a causal language model.")
    return Head(output.weight, getattr(output, "bias", None), *logit_transform(network.config))


def logit_transform(config: Any) -> tuple[float, float]:
    """Scale and cap that a network of this configuration puts on its logits; see `Head`."""
    text = config.get_text_config()

    def first(*names: str) -> float:
        """The first of these settings that is a number other than 0, else 0; MPT's may be a word."""
        values = (getattr(text, name, None) for name in names)
        return next((value for value in values if isinstance(value, int | float) and value), 0.0)

    scale = (first("logit_scale", "lm_head_multiplier") or 1.0) / (first("logits_scaling") or 1.0)
    return scale, first("final_logit_softcapping", "logits_soft_cap")


@torch.no_grad()
def check_head(network: PreTrainedModel) -> None:
    """Compares the logits of a few tokens with those `output_head` gives for the same hidden states.

    Raises:
        ModelError: they differ: the network does something to its logits that `Head` does not know.
    """
    head = output_head(network)
    tokens = torch.arange(PROBE_TOKENS, device=head.weight.device)
    with plain_attention(network):  # which attention is right for the network is found later
        expected = network(input_ids=tokens[None], use_cache=False).logits[0].float()
        logits = head.logits(completion_hidden(network, tokens, tokens, tokens), len(head.weight))
    compare_head(network, logits, expected, head.weight.dtype)


def compare_head(network: torch.nn.Module, logits: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuses `logits` of `Head` that are not the `expected` ones of the network of `dtype`: `ModelError`."""
    difference = (logits - expected).abs()
    if not difference.max() <= PROBE_TOLERANCE[dtype] * expected.abs().max():
        raise ModelError(
            f"{type(network).__name__} computes other logits than its output embeddings with a bias, a scale and a cap "
            f"(largest difference {difference.max():.3g}); such a head cannot be distilled here. Take another model, "
            "or add its transformation to sdft_ray/distill/distributions.py."
        )


def check_folder_head(folder: str, model: ModelConfig) -> None:
    """Checks the head of a model folder as `check_head` does, on its first layer: what a head does, any layer tells.

    Raises:
        ModelError: as `check_head`.
    """
    config = read_config(folder)
    text = config.get_text_config()
    text.num_hidden_layers = 1
    if vars(text).get("layer_types"):  # not where they are derived from the number of layers
        text.layer_types = text.layer_types[:1]
    check_head(load_network(folder, model.dtype, model, config=config).eval())


def load_head(folder: str, precision: Precision, device: torch.device) -> Head:
    """The head of a model folder, without reading the rest of its weights.

    Raises:
        ModelError: the folder's safetensors do not hold it under the network's own name for it.
    """
    config = read_config(folder)
    network = without_weights(config, folder)
    tied = config.get_text_config().tie_word_embeddings
    output = network.get_output_embeddings()
    weight = network.get_input_embeddings().weight if tied else output.weight
    names = {id(parameter): name for name, parameter in network.named_parameters()}

    def read(parameter: torch.Tensor) -> torch.Tensor:
        return _read_tensor(Path(folder), names[id(parameter)]).to(device, TORCH_DTYPE[precision])

    bias = getattr(output, "bias", None)
    return Head(read(weight), None if bias is None else read(bias), *logit_transform(config))


def _read_tensor(folder: Path, name: str) -> torch.Tensor:
    file = folder / WEIGHTS_FILE
    if (folder / WEIGHTS_INDEX).is_file():
        file = folder / json.loads((folder / WEIGHTS_INDEX).read_text())["weight_map"].get(name, WEIGHTS_FILE)
    if file.is_file():
        with safe_open(file, framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 - no dictionary
                return tensors.get_tensor(name)
    raise ModelError(
        f"{folder}: no safetensors file holds {name}, which the learner needs of a frozen teacher; save the model anew "
        "with save_pretrained, or set teacher.payload=LOGITS."
    )
