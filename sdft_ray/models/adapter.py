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
from sdft_ray.errors import ConfigError
from sdft_ray.models.arithmetic import NetworkShape
from sdft_ray.models.folder import read_config, without_weights
from sdft_ray.models.state import A, B

AVERAGE_RANK = 2  # the adapter as it was and how it has changed: see learner/adapter_average.py
TARGETS, PATH = "model.adapter.targets", "model.path"
MAX_NAMED = 12  # layers in one message


def check_adapter(adapter: AdapterConfig, path: str, folder: str) -> None:
    """Refuses an adapter that the network of a folder cannot be given, before any of its weights is read.

    Args:
        adapter: the settings.
        path: `model.path`.
        folder: from `resolve_model`.

    Raises:
        ConfigError: a target matches nothing or no linear layer, or there are experts.
    """
    if not adapter.is_on:
        return
    target_layers(without_weights(read_config(folder), folder), adapter)


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
    if not adapter.is_on:
        return 0
    hidden, query, key, inner = shape.hidden_size, shape.query_size, shape.key_size, shape.intermediate_size
    sides = {"q_proj": hidden + query, "k_proj": hidden + key, "v_proj": hidden + key, "o_proj": hidden + query}
    sides |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), hidden + inner)
    targets = {target.rpartition(".")[2] for target in adapter.targets} or set(sides)
    return adapter.rank * shape.num_layers * sum(sides.get(target, hidden + inner) for target in targets)


def target_layers(network: PreTrainedModel, adapter: AdapterConfig) -> dict[str, nn.Linear]:
    """The layers that an adapter is given to, by name.

    Raises:
        ConfigError: as `check_adapter`.
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
    experts = next((name for name, _ in network.named_parameters() if ".experts." in name), "")
    if experts or not names:
        what = f"experts such as {experts} are no linear layers" if experts else "there are none"
        raise ConfigError(
            TARGETS,
            [],
            f"asks for every linear layer, but in {type(network).__name__} {what}, which an adapter is not built for",
            f"name the layers that are to be adapted, such as {TARGETS}=[{','.join(names[:4])}]",
        )
    return names


def add_adapter(network: PreTrainedModel, adapter: AdapterConfig) -> None:
    """Puts the adapter in, if it is on; its own parameters are all that requires a gradient from then on.

    A is drawn from torch's generator, which every rank has seeded alike. With ZeRO 3 it is not cut up yet.
    """
    if not adapter.is_on:
        return
    from peft import LoraConfig, inject_adapter_in_model  # here: most runs have no adapter

    target_layers(network, adapter)
    settings = LoraConfig(**lora_settings(network, adapter))
    inject_adapter_in_model(settings, network)


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
    else:
        into.copy_(torch.addmm(base.float(), second, first, alpha=scale))


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _linear_names(network: PreTrainedModel) -> list[str]:
    """The last part of the name of every linear layer that is numbered or lies in one that is."""
    head = network.get_output_embeddings()
    found = {
        name.rpartition(".")[2]
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module is not head and any(part.isdigit() for part in name.split("."))
    }
    return sorted(found)
