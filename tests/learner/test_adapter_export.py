"""An exported adapter is what peft and transformers load, and computes the student's logits; merged it is a model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sdft_ray.config import AdapterConfig, AdapterKind, ModelConfig, Precision
from sdft_ray.errors import CheckpointError
from sdft_ray.learner.adapter_export import WEIGHTS_FILE, export_adapter, load_export, merged_network
from sdft_ray.learner.export import UNVERIFIED_FILE
from sdft_ray.models.network import load_network
from sdft_ray.models.state import trained_parameters
from tests.tiny import make_tiny_model

TOKENS = torch.tensor([[0, 20, 21, 22, 23, 24]])
ADAPTER = AdapterConfig(kind=AdapterKind.LORA, rank=4, alpha=6.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def model_of(base: str) -> ModelConfig:
    return ModelConfig(path=base, dtype=Precision.FLOAT32, attention="sdpa", adapter=ADAPTER)


@pytest.fixture(scope="module")
def student(base: str) -> Any:
    """An adapted network whose factors have moved."""
    network = load_network(base, Precision.FLOAT32, model_of(base), ADAPTER).eval()
    generator = torch.Generator().manual_seed(1)
    for value in trained_parameters(network).values():
        value.data += 0.05 * torch.randn(value.shape, generator=generator)
    return network


def state_of(student: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in trained_parameters(student).items()}


@torch.no_grad()
def logits(network: Any) -> torch.Tensor:
    result: torch.Tensor = network(input_ids=TOKENS, use_cache=False).logits
    return result


def test_peft_and_transformers_load_what_is_exported(base: str, student: Any, tmp_path: Path) -> None:
    export_adapter(student, state_of(student), tmp_path, base)
    assert (tmp_path / UNVERIFIED_FILE).is_file()
    by_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path).eval()
    by_transformers = AutoModelForCausalLM.from_pretrained(tmp_path).eval()  # which finds the base by its name
    for loaded in (by_peft, by_transformers, load_export(tmp_path, base, Precision.FLOAT32, model_of(base)).eval()):
        torch.testing.assert_close(logits(loaded), logits(student), atol=1e-5, rtol=0)
    assert len(load_file(tmp_path / WEIGHTS_FILE)) == len(trained_parameters(student))


def test_a_merged_model_computes_the_students_logits(base: str, student: Any) -> None:
    merged = merged_network(base, state_of(student), Precision.FLOAT32, model_of(base)).eval()
    torch.testing.assert_close(logits(merged), logits(student), atol=1e-4, rtol=0)
    assert merged.state_dict().keys() == AutoModelForCausalLM.from_pretrained(base).state_dict().keys()


def test_an_export_that_lacks_a_factor_is_refused(base: str, student: Any, tmp_path: Path) -> None:
    export_adapter(student, state_of(student), tmp_path, base)
    factors = load_file(tmp_path / WEIGHTS_FILE)
    name = next(iter(factors))
    del factors[name]
    save_file(factors, tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="does not hold the factors"):
        load_export(tmp_path, base, Precision.FLOAT32, model_of(base))
