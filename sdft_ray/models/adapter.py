"""A low-rank adapter in a network: which layers it is given to, how it is put there, and how it is switched off.

Beside each target W [out, in] lie two factors, A [rank, in] and B [out, rank], by the `peft` library. The layer
computes W x + scale * B A x. B begins at zero, so an adapted network computes at first what it would compute without.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from sdft_ray.config import AdapterConfig
from sdft_ray.errors import ConfigError, first_line
from sdft_ray.models.arithmetic import NetworkShape
from sdft_ray.models.folder import read_config, without_weights
from sdft_ray.models.state import A, B

AVERAGE_RANK = 2  # the adapter as it was and how it has changed: see learner/adapter_average.py
TARGETS, PATH = "model.adapter.targets", "model.path"
EXPERTS = ".experts."  # in the name of their parameters
MAX_NAMED = 12  # layers in one message
BLOCK_ELEMENTS = 2**18  # of a weight that are merged at a time: 1 MiB in fp32, which stays in a core's cache


def check_adapter(adapter: AdapterConfig, path: str, folder: str) -> None:
    """Refuses an adapter that the network of a folder cannot be given, before any of its weights is read.

    Args:
        adapter: the settings.
        path: `model.path`.
        folder: from `resolve_model`.

    Raises:
        ConfigError: a target matches nothing, no linear layer or an expert, or its rank is beyond what there is to
            update.
    """
    if not adapter.is_on:
        return
    network = without_weights(read_config(folder), folder)
    targets = target_layers(network, adapter)
    for name, layer in targets.items():
        product = layer(torch.empty(1, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device))
        if not isinstance(product, torch.Tensor):
            raise ConfigError(
                TARGETS,
                adapter.targets,
                f"names {name}, which is {type(layer).__name__} and computes more than a product",
                f"take some of {', '.join(_beside_experts(network)[:MAX_NAMED])}",
            )
    _check_rank(adapter, targets)
    add_adapter(network, adapter)


def adapter_facts(adapter: AdapterConfig) -> dict[str, Any]:
    """What an adapter's factors mean, as plain containers: with other values they would be another update."""
    if not adapter.is_on:
        return {"kind": adapter.kind.name}
    facts = {"kind": adapter.kind.name, "rank": adapter.rank, "alpha": adapter.alpha}
    return facts | {"targets": sorted(set(adapter.targets))}


def num_factor_elements(shape: NetworkShape, adapter: AdapterConfig) -> int:
    """Elements of all factors, as a network of attention and gated layers has them; 0 without an adapter.

    A target by any other name counts as the largest of them.
    """
    return adapter.rank * shape.num_layers * sum(map(sum, _target_sides(shape, adapter)))


def num_target_elements(shape: NetworkShape, adapter: AdapterConfig) -> int:
    """Elements of the weights that the factors are put beside, counted as `num_factor_elements` counts."""
    return shape.num_layers * sum(rows * columns for rows, columns in _target_sides(shape, adapter))


def _target_sides(shape: NetworkShape, adapter: AdapterConfig) -> list[tuple[int, int]]:
    """Both sides of every target of one layer; none without an adapter."""
    if not adapter.is_on:
        return []
    hidden, query, key, inner = shape.hidden_size, shape.query_size, shape.key_size, shape.intermediate_size
    sides = {"q_proj": (hidden, query), "k_proj": (hidden, key), "v_proj": (hidden, key), "o_proj": (hidden, query)}
    sides |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), (hidden, inner))
    targets = {target.rpartition(".")[2] for target in adapter.targets} or set(sides)
    return [sides.get(target, (hidden, inner)) for target in targets]


def target_layers(network: PreTrainedModel, adapter: AdapterConfig) -> dict[str, nn.Linear]:
    """The layers that an adapter is given to, by name.

    Raises:
        ConfigError: a target matches nothing, or no linear layer, or there are experts and no targets.
    """
    layers: dict[str, nn.Linear] = {}
    for target in target_names(network, adapter):
        matched = {name: module for name, module in network.named_modules() if _ends_with(name, target)}
        if not matched:
            there_are = ", ".join(_linear_names(network)[:MAX_NAMED])
            raise ConfigError(TARGETS, target, "is the end of no layer's name", f"take some of {there_are}")
        for name, module in matched.items():
            if not isinstance(module, nn.Linear) or module is network.get_output_embeddings():
                raise ConfigError(
                    TARGETS,
                    target,
                    f"names {name}, which is {type(module).__name__} and no linear layer of the decoder",
                    f"take some of {', '.join(_linear_names(network)[:MAX_NAMED])}",
                )
            layers[name] = module
    return layers


def target_names(network: PreTrainedModel, adapter: AdapterConfig) -> list[str]:
    """The ends of the names of those layers: the setting's, or of every linear layer in the decoder's layers.

    Raises:
        ConfigError: the setting names none, and the network has experts, which are no linear layers.
    """
    if adapter.targets:
        return sorted(set(adapter.targets))
    names = _linear_names(network)
    experts = [name for name, _ in network.named_parameters() if EXPERTS in name]
    if experts or not names:
        what = f"experts such as {experts[0]} are no linear layers" if experts else "there are none"
        raise ConfigError(
            TARGETS,
            [],
            f"asks for every linear layer, but in {type(network).__name__} {what}, which an adapter is not built for",
            f"name the layers that are to be adapted, such as {TARGETS}=[{','.join(_beside_experts(network))}]"
            if names
            else "take another model, or set model.adapter.kind=NONE",
        )
    return names


def add_adapter(network: PreTrainedModel, adapter: AdapterConfig) -> None:
    """Puts the adapter in, if it is on; its own parameters are all that requires a gradient from then on.

    A is drawn from torch's generator, which every rank has seeded alike. With ZeRO 3 it is not cut up yet.

    Raises:
        ConfigError: as `target_layers`, or peft refuses a target, or takes it for experts.
    """
    if not adapter.is_on:
        return
    from peft import LoraConfig, inject_adapter_in_model  # here: most runs have no adapter

    targets, beside = target_layers(network, adapter), ",".join(_beside_experts(network))
    settings = LoraConfig(**lora_settings(network, adapter))
    try:
        inject_adapter_in_model(settings, network)
    except ValueError as error:  # such as for layers of Mamba, whose weights are read without a call of the layer
        raise ConfigError(
            TARGETS,
            adapter.targets,
            f"is refused by peft for {type(network).__name__} ({first_line(error).rstrip('.')})",
            f"take others of {beside}",
        ) from error
    # By names that layers of experts once had, peft adapts all experts, and not the layers that have these names.
    adapted = {name for name, module in network.named_modules() if hasattr(module, "lora_A")}
    if others := sorted(adapted ^ targets.keys()):
        raise ConfigError(
            TARGETS,
            adapter.targets,
            f"means experts to peft, such as {others[0]}, which an adapter is not built for",
            f"take some of {beside}",
        )


def lora_settings(network: PreTrainedModel, adapter: AdapterConfig) -> dict[str, Any]:
    """The settings of the adapter as peft names them; `network` has no adapter yet, or this one."""
    return {
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": target_names(network, adapter),
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }


def averaged(adapter: AdapterConfig) -> AdapterConfig:
    """The adapter that holds a moving average of this one: of `AVERAGE_RANK` times the rank, scaled alike."""
    return replace(adapter, rank=AVERAGE_RANK * adapter.rank, alpha=AVERAGE_RANK * adapter.alpha)


@contextmanager
def adapter_off(network: nn.Module) -> Iterator[None]:
    """Computes inside the block as if the network had no adapter; nothing is copied."""
    layers: list[Any] = [module for module in network.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def drop_inputs(network: nn.Module) -> None:
    """Has an adapter's dropout draw, in a network that is otherwise in the mode it samples in."""
    layers: list[Any] = [module for module in network.modules() if hasattr(module, "lora_dropout")]
    for layer in layers:
        layer.lora_dropout.train()


def factor_pairs(parameters: Iterable[tuple[str, torch.Tensor]]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Target to its factors A [rank, in] and B [out, rank]; other parameters are passed over."""
    held = dict(parameters)
    return {
        name.removesuffix(A): (value, held[name.removesuffix(A) + B])
        for name, value in held.items()
        if name.endswith(A)
    }


@torch.no_grad()
def merge(base: torch.Tensor, factors: tuple[torch.Tensor, torch.Tensor], scale: float, into: torch.Tensor) -> None:
    """Writes base + scale * B A to `into`, added up in fp32 and rounded once where that is in bf16; [out, in]."""
    first, second = (factor.float() for factor in factors)
    if into.dtype is torch.float32:
        torch.addmm(base, second, first, alpha=scale, out=into)
        return
    num_rows = max(1, BLOCK_ELEMENTS // base.shape[1])
    for begin in range(0, len(base), num_rows):
        part = slice(begin, begin + num_rows)
        into[part].copy_(torch.addmm(base[part].float(), second[part], first, alpha=scale))


def _check_rank(adapter: AdapterConfig, targets: dict[str, nn.Linear]) -> None:
    """Refuses factors that are no smaller than the weights they are put beside."""
    sides = [(layer.in_features, layer.out_features) for layer in targets.values()]
    num_elements = adapter.rank * sum(map(sum, sides))
    num_weights = sum(rows * columns for rows, columns in sides)
    if num_elements >= num_weights:
        tenth = max(1, num_weights // (10 * sum(map(sum, sides))))
        raise ConfigError(
            "model.adapter.rank",
            adapter.rank,
            f"makes factors of {num_elements:,} elements beside weights of {num_weights:,}",
            f"set it to {tenth} or so, or train the weights themselves with model.adapter.kind=NONE",
        )


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _beside_experts(network: PreTrainedModel) -> list[str]:
    """Those of `_linear_names` of which no layer lies beside experts; all of them where each does."""
    blocks = {name.partition(EXPERTS)[0] + "." for name, _ in network.named_parameters() if EXPERTS in name}
    inside = {_end(name) for name, _ in network.named_modules() if name.startswith(tuple(blocks))}
    names = _linear_names(network)
    return [name for name in names if name not in inside] or names


def _linear_names(network: PreTrainedModel) -> list[str]:
    """The end of the name of every linear layer that is numbered or lies in one that is."""
    head = network.get_output_embeddings()
    found = {
        _end(name)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module is not head and any(part.isdigit() for part in name.split("."))
    }
    return sorted(found)


def _end(name: str) -> str:
    """The last part of a name, and the numbers behind it: of a list's layer those say which."""
    parts = name.split(".")
    first = next((at for at in reversed(range(len(parts))) if not parts[at].isdigit()), 0)
    return ".".join(parts[first:])
