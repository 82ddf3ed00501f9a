"""A learner's forward, backward and AdamW, without DeepSpeed: their numbers, and how fast they are."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config

from sdft_ray.config import LearnerConfig, ModelConfig, Precision
from sdft_ray.distill.distributions import Head, HiddenRows
from sdft_ray.distill.fused_loss import fused_teacher_loss
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.distill.reference_loss import teacher_loss
from sdft_ray.learner.objective import HeadOutput, Student
from sdft_ray.learner.optimizer import make_optimizer
from sdft_ray.learner.roofline import matmul_seconds, measure_matmul
from sdft_ray.models.network import TORCH_DTYPE, load_network, output_head
from tests.gpu_check.checks import SEQUENCES, TOLERANCE, fastest_s, given, hold, packed, peak_mib
from tests.gpu_check.parts import Place
from tests.tiny import make_tiny_model

NUM_STEPS, LEARNING_RATE = 4, 1e-3
GRADIENT = 3  # times the tolerance of a sum: student and teacher are both rounded; 0.057 in bf16 on a CPU
LOSS_TOLERANCE = 1e-3  # of later steps, relative: AdamW's first ones carry the sign of gradients that are almost 0
QWEN_1_5B = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True,
}  # fmt: skip
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": True,
}  # fmt: skip


def measure(place: Place) -> dict[str, Any]:
    """Holds numbers against plain PyTorch in fp64, then measures."""
    folder, teacher = (make_tiny_model(place.scratch / f"tiny-{seed}", seed=seed) for seed in (0, 1))
    teacher_logits = _plain_logits(_plain(teacher)).detach()
    expected, gradient = _plain_steps(folder, teacher_logits)
    rows = []
    for precision in TORCH_DTYPE:
        losses, own = _steps(folder, teacher, precision, place.device)
        most = TOLERANCE[TORCH_DTYPE[precision]]
        errors = [abs(loss / other - 1) for loss, other in zip(losses, expected, strict=True)]
        row = {"precision": precision.name, "gradient": float((own - gradient).norm() / gradient.norm())}
        hold(f"the gradient in {precision.name}", row["gradient"], GRADIENT * most)
        row["first_loss"] = hold(f"the first loss in {precision.name}", errors[0], most)
        # In bf16 there are no fp32 masters without DeepSpeed, and a step is rounded away.
        later = max(errors[1:]) if precision is Precision.FLOAT32 else None
        row["later_losses"] = later if later is None else hold("a later loss", later, LOSS_TOLERANCE)
        rows.append(row)
    return {
        "tables": {"Relative differences from fp64": rows, "One microbatch in bf16": _speed(place.device)},
        "notes": [
            f"{NUM_STEPS} steps of a tiny Llama; a share of 1 is that of the matrix products alone, see roofline.py"
        ],
    }


def _plain(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")


def _plain_logits(network: Any) -> Tensor:
    """[T, V], one sequence after the other."""
    return torch.cat(
        [
            network(torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
            for prompt, completion in SEQUENCES
        ]
    )


def _plain_steps(folder: str, teacher_logits: Tensor) -> tuple[list[float], Tensor]:
    """The losses of all steps, and the first gradient, flat."""
    network, losses, first = _plain(folder), [], torch.empty(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=LearnerConfig().weight_decay)
    for _ in range(NUM_STEPS):
        logits = _plain_logits(network)
        loss = teacher_loss(student_logits=logits, teacher_logits=teacher_logits, **given("cpu", logits.shape[1])).loss
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        first = first if len(first) else _flat_gradient(network)
        optimizer.step()
    return losses, first


def _steps(folder: str, teacher: str, precision: Precision, device: str) -> tuple[list[float], Tensor]:
    """The same as a learner computes it: packed, fused, with its own AdamW."""
    model = ModelConfig(path=folder, dtype=precision)
    network = load_network(folder, precision, model).to(device)
    scoring = load_network(teacher, precision, model).to(device)
    with torch.no_grad():
        (hidden,) = Student(scoring).eval()(**packed(device), loss_of=lambda hidden, head: HeadOutput(hidden))
    rows = HiddenRows(hidden, _detached(output_head(scoring)))
    student, losses, first = Student(network).train(), [], torch.empty(0)
    optimizer = make_optimizer(network.parameters(), LearnerConfig(learning_rate=LEARNING_RATE))
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        loss = _loss(student, packed(device), rows, given(device, network.config.vocab_size))
        losses.append(loss.item())
        first = first if len(first) else _flat_gradient(network)
        optimizer.step()
    return losses, first


def _loss(student: Student, inputs: dict[str, Tensor], rows: HiddenRows, others: dict[str, Any]) -> Tensor:
    """The loss, behind its backward pass."""

    def loss_of(hidden: Tensor, head: Head) -> LossOutput:
        return fused_teacher_loss(student_hidden=hidden, student_head=head, teacher=rows, **others)

    loss = LossOutput.from_tuple(student(**inputs, loss_of=loss_of)).loss
    loss.backward()
    return loss.detach()


def _detached(head: Head) -> Head:
    return head._replace(weight=head.weight.detach(), bias=None if head.bias is None else head.bias.detach())


def _flat_gradient(network: Any) -> Tensor:
    return torch.cat([param.grad.detach().cpu().double().flatten() for param in network.parameters()])


def _speed(device: str) -> list[dict[str, Any]]:
    """Tokens a second and memory of forward and backward in the size of Qwen2.5-1.5B, on a CPU in a small one."""
    shape, num_sequences, num_tokens = (QWEN_1_5B, 8, 256) if device == "cuda" else (SMALL, 2, 16)
    with torch.device(device):
        config = Qwen2Config(**shape)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="packed")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(config.vocab_size, (num_sequences, 2, num_tokens), generator=generator).tolist()
    sequences = [(tuple(prompt), tuple(completion)) for prompt, completion in drawn]
    inputs, others = packed(device, sequences), given(device, config.vocab_size, sequences)
    num_rows = num_sequences * num_tokens
    hidden = torch.randn(num_rows, config.hidden_size, generator=generator).to(device, torch.bfloat16)
    rows = HiddenRows(hidden, _detached(output_head(network)))
    shapes = tuple((name, tuple(param.shape)) for name, param in network.named_parameters())
    rate = measure_matmul(torch.device(device), torch.bfloat16)
    least = matmul_seconds(shapes, tuple(output_head(network).weight.shape), rate)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False})
        student = Student(network).train()
        _loss(student, inputs, rows, others)  # makes the gradients, which are not among the peak
        memory = peak_mib(device, lambda student=student: _loss(student, inputs, rows, others))
        time_s = fastest_s(device, lambda student=student: _loss(student, inputs, rows, others))
        read = len(inputs["input_ids"])
        found.append(
            {
                "gradient_checkpointing": str(checkpointing).lower(),
                "tokens": read,
                "tokens_per_s": read / time_s,
                "matmul_share": (least.per_token * read + least.per_head_row * num_rows) / time_s,
                "matmul_tflops": rate / 1e12,
                "memory_mib": memory,
            }
        )
    return found
