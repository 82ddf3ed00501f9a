"""An adapter as a PEFT folder, which peft and transformers load, and merged into the model as an ordinary one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from sdft_ray.config import AdapterConfig, AdapterKind, ModelConfig, Precision
from sdft_ray.errors import CheckpointError
from sdft_ray.learner.export import export_student, make_readable, mark_unverified
from sdft_ray.learner.settings import LearnerSettings
from sdft_ray.models.adapter import factor_pairs, merge
from sdft_ray.models.network import load_network
from sdft_ray.models.resolve import ADAPTER_FILE

WEIGHTS_FILE, PREFIX = "adapter_model.safetensors", "base_model.model."  # as peft names file and factors


def write_export(
    network: PreTrainedModel,
    state: dict[str, torch.Tensor],
    folder: Path,
    settings: LearnerSettings,
    *,
    merged: bool,
) -> None:
    """Writes what was trained: a whole network, an adapter as it is, or `merged` into its base.

    Args:
        network: the student.
        state: what is trained and the saved buffers, whole.
        folder: where to.
        settings: of the rank.
        merged: whether an adapter is merged; a second network is held in host memory meanwhile.
    """
    precision, base = settings.learner.precision, settings.model_path
    if settings.model.adapter.is_on and not merged:
        export_adapter(network, state, folder, base)
        return
    if settings.model.adapter.is_on:
        network = merged_network(base, state, precision, settings.model)
        state = network.state_dict()
    export_student(network, state, folder, Path(base), precision)


def load_export(folder: Path, base: str, precision: Precision, model: ModelConfig) -> PreTrainedModel:
    """The network that an exported folder describes, in host memory; an adapter's with its base.

    Raises:
        CheckpointError: an adapter lacks a factor, or has one too many.
    """
    if (folder / ADAPTER_FILE).is_file():
        return load_with_adapter(folder, base, precision, model)
    return load_network(str(folder), precision, model)


def export_adapter(network: PreTrainedModel, state: Mapping[str, torch.Tensor], folder: Path, base: str) -> None:
    """Writes an adapter's settings and factors.

    Args:
        network: the student, which says what adapter it has.
        state: the factors, whole, by their names in the network.
        folder: where to; it holds `export.UNVERIFIED_FILE` afterwards.
        base: a local folder or the name on a hub of the model that it belongs to.
    """
    from peft import LoraConfig, get_peft_model_state_dict

    mark_unverified(folder)
    settings: LoraConfig = network.peft_config["default"]
    LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(str(folder))
    factors = get_peft_model_state_dict(network, state_dict=dict(state))
    named = {f"{PREFIX}{name}": value.contiguous() for name, value in factors.items()}
    save_file(named, folder / WEIGHTS_FILE, {"format": "pt"})
    make_readable(folder)


def load_with_adapter(folder: Path, base: str, precision: Precision, model: ModelConfig) -> PreTrainedModel:
    """The base with the adapter of a PEFT folder, its settings and factors read by peft.

    Raises:
        CheckpointError: the folder lacks a factor, or has one too many.
    """
    from peft import LoraConfig, load_peft_weights, set_peft_model_state_dict

    settings = LoraConfig.from_pretrained(str(folder))
    adapter = AdapterConfig(
        kind=AdapterKind.LORA, rank=settings.r, alpha=settings.lora_alpha, targets=sorted(settings.target_modules)
    )
    network = load_network(base, precision, model, adapter)
    saved = load_peft_weights(str(folder), device="cpu")
    loaded: Any = set_peft_model_state_dict(
        network, {name.removeprefix(PREFIX): value for name, value in saved.items()}
    )
    absent = [name for name in loaded.missing_keys if ".lora_" in name]
    if absent or loaded.unexpected_keys:
        name = (absent or loaded.unexpected_keys)[0]
        raise CheckpointError(f"{folder / WEIGHTS_FILE} does not hold the factors of its adapter, such as {name}")
    return network


def merged_network(
    base: str, state: Mapping[str, torch.Tensor], precision: Precision, model: ModelConfig
) -> PreTrainedModel:
    """The base with the adapter's update added to its weights, in host memory; `state` holds the factors."""
    network = load_network(base, precision, model)
    for target, factors in factor_pairs(state.items()).items():
        weight = network.get_parameter(f"{target}.weight").detach()
        merge(weight, factors, model.adapter.scale, weight)
    return network
