"""An adapter on the device: what it adds, what is left when it is off, what is trained, and both of its exports."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from sdft_ray.config import AdapterConfig, AdapterKind, ModelConfig, Precision
from sdft_ray.learner.adapter_export import export_adapter, merged_network
from sdft_ray.learner.export import export_student
from sdft_ray.models.adapter import adapter_off
from sdft_ray.models.network import TORCH_DTYPE, load_network
from sdft_ray.models.state import trained_parameters
from tests.gpu_check.checks import SEQUENCES, TOLERANCE, hold, off, packed
from tests.gpu_check.parts import Place
from tests.tiny import make_tiny_model

ADAPTER = AdapterConfig(kind=AdapterKind.LORA, rank=4)


def measure(place: Place) -> dict[str, Any]:
    """In both precisions; the exports once, in fp32."""
    folder = make_tiny_model(place.scratch / "tiny-0")
    rows = [_row(folder, precision, place) for precision in TORCH_DTYPE]
    return {"tables": {"Relative differences of logits": rows}}


def _row(folder: str, precision: Precision, place: Place) -> dict[str, Any]:
    model = ModelConfig(path=folder, dtype=precision, adapter=ADAPTER)
    most, device = TOLERANCE[TORCH_DTYPE[precision]], place.device
    base = _logits(load_network(folder, precision, model).to(device), device)
    network = load_network(folder, precision, model, ADAPTER).to(device).eval()
    row: dict[str, Any] = {"precision": precision.name}
    row["at_first"] = hold("logits with an adapter that is still 0", off(_logits(network, device), base), most)
    _logits(network, device).float().logsumexp(-1).sum().backward()
    trained = trained_parameters(network)
    others = [name for name, param in network.named_parameters() if param.grad is not None and name not in trained]
    assert not others, f"{others[0]} got a gradient beneath the adapter"
    row["trained_share"] = sum(map(Tensor.numel, trained.values())) / sum(map(Tensor.numel, network.parameters()))
    move_factors(network)
    adapted = _logits(network, device)
    assert off(adapted, base) > 2 * most, "the factors have moved, and logits have not"
    with adapter_off(network):
        row["switched_off"] = hold("logits with the adapter off", off(_logits(network, device), base), most)
    peft_folder, merged_folder = export_both(network, folder, precision, model, place.scratch / precision.name)
    merged = AutoModelForCausalLM.from_pretrained(merged_folder, attn_implementation="packed").to(device)
    row["merged"] = hold("logits of the merged folder", off(_logits(merged, device), adapted), most)
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=TORCH_DTYPE[precision], attn_implementation="packed")
    by_peft = PeftModel.from_pretrained(own, peft_folder).to(device).base_model.model
    row["loaded_by_peft"] = hold("logits of the PEFT folder", off(_logits(by_peft, device), adapted), most)
    return row


@torch.no_grad()
def move_factors(network: Any) -> None:
    """Makes both factors what training might have made of them."""
    generator = torch.Generator().manual_seed(1)
    for value in trained_parameters(network).values():
        value += (0.1 * torch.randn(value.shape, generator=generator)).to(value)


def export_both(network: Any, base: str, precision: Precision, model: ModelConfig, folder: Path) -> tuple[Path, Path]:
    """The PEFT folder and the merged one, as a run writes them."""
    state = {name: value.detach().cpu() for name, value in trained_parameters(network).items()}
    export_adapter(network, state, folder / "peft", base)
    merged = merged_network(base, state, precision, model)
    export_student(merged, merged.state_dict(), folder / "merged", Path(base), precision)
    return folder / "peft", folder / "merged"


def _logits(network: Any, device: str) -> Tensor:
    """[T, V] of all completion tokens, in one packed forward pass."""
    inputs = packed(device, SEQUENCES)
    output = network.eval()(
        input_ids=inputs["input_ids"][None], position_ids=inputs["position_ids"][None], use_cache=False
    )
    logits: Tensor = output.logits[0, inputs["predictor_index"]]
    return logits
