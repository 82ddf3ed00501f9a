"""A teacher on transformers: what its payloads say, with its first weights, with new ones, and after a sleep."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sdft_ray.config import ModelConfig, Payload, Precision, TeacherConfig
from sdft_ray.distill.distributions import Head
from sdft_ray.distill.fused_loss import fused_teacher_loss
from sdft_ray.distill.reference_loss import teacher_loss
from sdft_ray.learner.teacher import TeacherHeads, teacher_rows
from sdft_ray.models.network import TORCH_DTYPE, output_head
from sdft_ray.teacher.scoring_network import ScoringNetwork
from sdft_ray.teacher.weights import copy_weights
from sdft_ray.tensors import moved
from tests.cluster.student import TrainedStudent
from tests.gpu_check.checks import SEQUENCES, TOLERANCE, fastest_s, given, hold, off
from tests.gpu_check.parts import Place
from tests.tiny import GUARD_ROWS, make_tiny_model
from tests.weights.publications import publish

# Of the divergence of a token [nats], relative to the largest: a difference of two logprobs.
BOUND = {precision: 4 * TOLERANCE[dtype] for precision, dtype in TORCH_DTYPE.items()}


def measure(place: Place) -> dict[str, Any]:
    """Every payload in both precisions against the full logits in fp64."""
    folder = make_tiny_model(place.scratch / "tiny-0")
    return {
        "tables": {
            "Relative differences of a token's divergence from fp64": [
                _row(folder, payload, precision, place.device) for payload in Payload for precision in TORCH_DTYPE
            ]
        }
    }


def _row(folder: str, payload: Payload, precision: Precision, device: str) -> dict[str, Any]:
    student = TrainedStudent(folder)
    num_tokens = student.network.config.vocab_size
    config = TeacherConfig(payload=payload, payload_precision=precision, top_k=num_tokens)
    teacher = ScoringNetwork(
        folder,
        ModelConfig(path=folder, dtype=precision),
        config,
        num_tokens=num_tokens,
        temperature=1.0,
        device=torch.device(device),
        guard_rows=GUARD_ROWS,
        max_len=64,
    )
    row: dict[str, Any] = {"payload": payload.name, "precision": precision.name, "packing": teacher.packing.name}
    row["first_weights"] = _difference(teacher, student.network, num_tokens, precision, device)
    version = student.train()
    copy_weights(teacher.parameters, publish(version, dict(_rounded(student.network, precision))))
    row["new_weights"] = _difference(teacher, student.network, num_tokens, precision, device)
    awake = _arrays(teacher)
    teacher.put_away()
    teacher.take_back()
    assert all(map(torch.equal, awake, _arrays(teacher))), "a payload has changed while the teacher was asleep"
    row["payload_bytes_per_token"] = sum(each.nbytes for each in awake) / sum(len(each) for _, each in SEQUENCES)
    row["pack_ms"] = 1000 * fastest_s(device, lambda: teacher.payloads(SEQUENCES))
    return row


def _rounded(network: Any, precision: Precision) -> list[tuple[str, Tensor]]:
    return [(name, value.detach().to(TORCH_DTYPE[precision])) for name, value in network.named_parameters()]


def _arrays(teacher: ScoringNetwork) -> list[Tensor]:
    """Everything that all payloads hold."""
    payloads = teacher.payloads(SEQUENCES)
    return [torch.from_numpy(getattr(each, name)) for each in payloads for name in each.__dataclass_fields__]


def _difference(teacher: ScoringNetwork, network: Any, num_tokens: int, precision: Precision, device: str) -> float:
    """Of the divergence of a random student from the teacher, and from `network` in fp64, which has its weights."""
    exact = AutoModelForCausalLM.from_config(network.config, attn_implementation="eager").double().eval()
    exact.load_state_dict({name: value.double() for name, value in network.state_dict().items()})
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(sum(len(each) for _, each in SEQUENCES), network.config.hidden_size, generator=generator)
    weight = torch.randn(num_tokens, network.config.hidden_size, generator=generator) / 8
    heads = TeacherHeads(1)
    own = output_head(network)
    heads.hold(0, own._replace(weight=moved(own.weight.detach().to(TORCH_DTYPE[precision]), torch.device(device))))
    payloads = teacher.payloads(SEQUENCES)
    with torch.no_grad():
        logits = torch.cat(
            [exact(torch.tensor([[*prompt, *each]])).logits[0, len(prompt) - 1 : -1] for prompt, each in SEQUENCES]
        )
        found = fused_teacher_loss(
            student_hidden=hidden.to(device),
            student_head=Head(weight.to(device)),
            teacher=teacher_rows(payloads, [0] * len(payloads), heads, "bucket", torch.device(device)),
            **given(device, num_tokens),
        )
        expected = teacher_loss(
            student_logits=(hidden @ weight.T).double(), teacher_logits=logits, **given("cpu", num_tokens)
        )
    return hold("a token's divergence", off(found.divergence, expected.divergence), BOUND[precision])
