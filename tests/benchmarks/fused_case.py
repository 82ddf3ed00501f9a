"""One divergence with its gradients from hidden states, in a process of its own: seconds, and memory beyond its inputs.

`python -m tests.benchmarks.fused_case IMPLEMENTATION TOKENS VOCAB [FOLDER]` prints one line of JSON and saves the
gradients into FOLDER; null where the machine has too little free memory, which is a result. The loss is
KL(student || teacher), the mean over the tokens; both sides have a head of their own.

Legend: T tokens, V vocabulary rows, H hidden size.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor

from sdft_ray.distill.distributions import Head, HiddenRows
from sdft_ray.distill.divergence import LossSettings
from sdft_ray.distill.fused_loss import fused_teacher_loss
from sdft_ray.distill.reference_loss import teacher_loss

HIDDEN_SIZE = 896  # Qwen2.5-0.5B
MIB = 2**20
SETTINGS = LossSettings(divergence="reverse_kl", jsd_beta=0.5, estimator="analytic", temperature=1.0, mismatch="none")


class Place(NamedTuple):
    """Where and in what size the divergence is computed."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    hidden_size: int = HIDDEN_SIZE


class Sides(NamedTuple):
    """What the divergence is computed from."""

    hidden: Tensor  # [T, H] of the student, carries the gradient
    weight: Tensor  # [V, H] of the student, carries the gradient
    teacher_hidden: Tensor  # [T, H]
    teacher_weight: Tensor  # [V, H]
    token_ids: Tensor  # [T]


def make_sides(num_tokens: int, num_vocab: int, place: Place = Place()) -> Sides:  # noqa: B008 - it cannot change
    """Random sides that differ as student and teacher do; made in place, so that no scratch memory is left behind."""
    torch.manual_seed(0)

    def empty(num_rows: int) -> Tensor:
        return torch.empty(num_rows, place.hidden_size, device=place.device, dtype=place.dtype)

    hidden = empty(num_tokens).normal_()
    weight = empty(num_vocab).normal_(std=2 * place.hidden_size**-0.5)
    teacher_hidden = empty(num_tokens).normal_(std=0.3).add_(hidden)
    teacher_weight = empty(num_vocab).copy_(weight).mul_(1.01)
    token_ids = torch.randint(num_vocab, (num_tokens,), device=place.device)
    return Sides(hidden.requires_grad_(), weight.requires_grad_(), teacher_hidden, teacher_weight, token_ids)


def _given(sides: Sides) -> dict[str, Any]:
    num_tokens, device = len(sides.token_ids), sides.hidden.device
    return {
        "token_ids": sides.token_ids,
        "token_weights": torch.full((num_tokens,), 1.0 / num_tokens, device=device),
        "sequence_ids": torch.zeros(num_tokens, dtype=torch.long, device=device),
        "sampler_logprobs": torch.zeros(num_tokens, device=device),
        "settings": SETTINGS,
        "num_vocab": len(sides.weight),
    }


def fused(sides: Sides) -> Tensor:
    """This project's, chunk by chunk."""
    head, teacher = Head(sides.weight), HiddenRows(sides.teacher_hidden, Head(sides.teacher_weight))
    return fused_teacher_loss(student_hidden=sides.hidden, student_head=head, teacher=teacher, **_given(sides)).loss


def unfused(sides: Sides) -> Tensor:
    """This project's plain definition."""
    teacher_logits = sides.teacher_hidden @ sides.teacher_weight.T
    return teacher_loss(
        student_logits=sides.hidden @ sides.weight.T, teacher_logits=teacher_logits, **_given(sides)
    ).loss


def trl(sides: Sides) -> Tensor:
    """What TRL's SDFTTrainer computes under distillation_mode="full_logits"."""
    from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss

    teacher_logits = sides.teacher_hidden @ sides.teacher_weight.T
    return compute_full_logit_self_distillation_loss(
        sides.hidden @ sides.weight.T, teacher_logits, distillation_alpha=1.0
    ).mean()


def liger(sides: Sides) -> Tensor:
    """Liger's chunked JSD at the end of its range that is KL(student || teacher); uncompiled, its own chunk size."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=1.0, compiled=False)
    return loss(sides.hidden, sides.weight, sides.teacher_hidden, sides.teacher_weight, sides.token_ids)


IMPLEMENTATIONS: dict[str, Callable[[Sides], Tensor]] = {
    "fused": fused,
    "unfused": unfused,
    "TRL": trl,
    "Liger": liger,
}


def run(implementation: str, num_tokens: int, num_vocab: int) -> tuple[dict[str, float], Sides]:
    """Forward and backward, once.

    Returns:
        `loss`, `time_s`, and `memory_mib`: the peak beyond the inputs and the gradients that are asked for.
    """
    compute = IMPLEMENTATIONS[implementation]
    compute(make_sides(8, 1024)).backward()  # loads libraries and starts threads
    sides = make_sides(num_tokens, num_vocab)
    before = _status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    started = time.perf_counter()
    loss = compute(sides)
    loss.backward()
    time_s = time.perf_counter() - started
    gradients = (sides.hidden.numel() + sides.weight.numel()) * sides.weight.element_size() / MIB
    memory = _status_mib("VmHWM") - before - gradients
    return {"loss": loss.item(), "time_s": time_s, "memory_mib": memory}, sides


def run_in_free_memory(implementation: str, num_tokens: int, num_vocab: int) -> tuple[dict[str, float], Sides] | None:
    """As `run`; None where it needs more than what is free now. The kernel would end this process, or another."""
    free = psutil.virtual_memory().available
    resource.setrlimit(resource.RLIMIT_DATA, (free, free))
    try:
        return run(implementation, num_tokens, num_vocab)
    except RuntimeError as error:  # torch has no class of its own for a CPU's memory
        if "can't allocate memory" not in str(error):
            raise
        return None


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    name, tokens, vocab, *folders = sys.argv[1:]
    outcome = run_in_free_memory(name, int(tokens), int(vocab))
    for folder in folders if outcome else []:
        torch.save([outcome[1].hidden.grad, outcome[1].weight.grad], Path(folder) / f"{name}.pt")
    print(json.dumps(outcome and outcome[0]))
