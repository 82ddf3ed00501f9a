"""Published parameters under a checkpoint's names; tests/cluster/test_expert_weights.py loads them into an engine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from sdft_ray.inference.checkpoint_names import CheckpointNames
from sdft_ray.models.state import published_state
from tests.buffered import FAMILIES, SIZES, make_buffered
from tests.tiny import make_tiny_model


def save(network: Any, folder: Path) -> dict[str, torch.Tensor]:
    """What save_pretrained writes."""
    network.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def converted(folder: Path, published: dict[str, torch.Tensor], num_parts: int) -> dict[str, torch.Tensor]:
    names, items = CheckpointNames(str(folder)), list(published.items())
    parts = [items[index::num_parts] for index in range(num_parts)]
    return dict([item for part in parts for item in names.convert(part)] + list(names.rest()))


@pytest.mark.parametrize("num_parts", [1, 5])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "hrm_text", *FAMILIES])
def test_parts_become_the_checkpoint(tmp_path: Path, family: str, num_parts: int) -> None:
    """mixtral renames and fuses, hrm_text splits one parameter of a checkpoint into several."""
    if family in FAMILIES:
        network = make_buffered(family)
    else:
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES))
    expected = save(network, tmp_path)
    published = published_state(network)
    given = converted(tmp_path, {name: value.detach() for name, value in published.items()}, num_parts)
    assert given.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in given.items())


def test_a_network_whose_names_are_the_checkpoints_passes_as_it_is(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    published = published_state(AutoModelForCausalLM.from_pretrained(folder))
    assert all(value is published[name] for name, value in converted(tmp_path, published, 1).items())
