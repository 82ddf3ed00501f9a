"""Exported folders in vLLM: the merged model, and the PEFT folder beside it, against transformers and peft."""

import os
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from sdft_ray.cluster.environment import actor_environment
from sdft_ray.config import ModelConfig, Precision, RolePlacement
from sdft_ray.models.network import load_network
from tests.gpu_check.adapter import ADAPTER, export_both, move_factors
from tests.gpu_check.checks import hold
from tests.gpu_check.parts import Place
from tests.served import served_logprobs
from tests.tiny import make_tiny_model

TOKENS = (0, 20, 21, 22, 23, 24, 25, 26)
# Nats, as tests/gpu/test_run.py has them; less than the adapter moves a logprob by.
MISMATCH = {"bfloat16": 1.0, "float32": 0.02}


def measure(place: Place) -> dict[str, Any]:
    """One engine for both: it serves the merged model, to which the adapter is then added once more."""
    os.environ.update(actor_environment("rollout", RolePlacement(gpus_per_worker=float(place.device == "cuda"))))
    base = make_tiny_model(place.scratch / "tiny-0")
    model = ModelConfig(path=base, dtype=Precision.FLOAT32, adapter=ADAPTER)
    network = load_network(base, Precision.FLOAT32, model, ADAPTER)
    move_factors(network)
    peft_folder, merged_folder = export_both(network, base, Precision.FLOAT32, model, place.scratch / "exported")
    merged = AutoModelForCausalLM.from_pretrained(merged_folder)
    expected = [logprobs(merged), logprobs(PeftModel.from_pretrained(merged, peft_folder))]
    moves = float((expected[1] - expected[0]).abs().max())
    dtype = "bfloat16" if place.device == "cuda" else "float32"
    assert moves > 2 * MISMATCH[dtype], f"the adapter moves logprobs by {moves:.3g} nats at most"
    found = served_logprobs(str(merged_folder), str(peft_folder), TOKENS, dtype=dtype)
    rows = []
    for name, own, other in zip(("merged", "PEFT"), found, expected, strict=True):
        difference = hold(f"the {name} folder", float((torch.tensor(own) - other).abs().max()), MISMATCH[dtype])
        rows.append({"folder": name, "precision": dtype, "difference_nats": difference, "adapter_moves_nats": moves})
    return {"tables": {"": rows}}


@torch.no_grad()
def logprobs(network: Any) -> Tensor:
    """[T - 1, nats] of TOKENS, by transformers in fp32."""
    logits = network.eval()(torch.tensor([TOKENS]), use_cache=False).logits[0, :-1].float()
    return torch.log_softmax(logits, dim=-1).gather(-1, torch.tensor(TOKENS[1:])[:, None])[:, 0]
