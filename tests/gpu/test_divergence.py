"""The fused loss on a GPU against the plain one in fp64 on the CPU, with heads in fp32 and in bf16."""

import pytest
import torch
from torch import Tensor

from sdft_ray.distill.distributions import Head, HiddenRows
from sdft_ray.distill.divergence import LossSettings
from sdft_ray.distill.fused_loss import fused_teacher_loss
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.distill.reference_loss import teacher_loss

TOKENS, NUM_VOCAB, NUM_ROWS, HIDDEN = 50, 1000, 1008, 64
CASES = [("reverse_kl", "analytic"), ("forward_kl", "analytic"), ("jsd", "analytic"), ("reverse_kl", "rao_blackwell")]
# Of the largest element. In bf16 only the gradient on the logits is rounded once, before it is multiplied.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}


def make_sides(dtype: torch.dtype) -> dict[str, Tensor]:
    """Both sides on the CPU, in values that `dtype` holds exactly."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).double()

    return {
        "hidden": normal(TOKENS, HIDDEN),
        "weight": normal(NUM_ROWS, HIDDEN) / 8,
        "bias": normal(NUM_ROWS),
        "teacher_hidden": normal(TOKENS, HIDDEN),
        "teacher_weight": normal(NUM_ROWS, HIDDEN) / 8,
    }


def given(settings: LossSettings, device: str) -> dict[str, object]:
    generator = torch.Generator().manual_seed(1)
    return {
        "token_ids": torch.randint(NUM_VOCAB, (TOKENS,), generator=generator).to(device),
        "token_weights": torch.rand(TOKENS, generator=generator).to(device),
        "sequence_ids": (torch.arange(TOKENS) // 7).to(device),
        "sampler_logprobs": torch.full((TOKENS,), -3.0).to(device),
        "settings": settings,
        "num_vocab": NUM_VOCAB,
    }


def on_gpu(sides: dict[str, Tensor], settings: LossSettings, dtype: torch.dtype, chunk_rows: int) -> list[Tensor]:
    values = {name: value.to("cuda", dtype) for name, value in sides.items()}
    leaves = [values[name].requires_grad_() for name in ("hidden", "weight", "bias")]
    output = fused_teacher_loss(
        student_hidden=leaves[0],
        student_head=Head(leaves[1], leaves[2], scale=0.5),
        teacher=HiddenRows(values["teacher_hidden"], Head(values["teacher_weight"], scale=0.5)),
        chunk_rows=chunk_rows,
        **given(settings, "cuda"),  # type: ignore[arg-type]
    )
    return results(output, leaves)


def on_cpu(sides: dict[str, Tensor], settings: LossSettings) -> list[Tensor]:
    leaves = [sides[name].clone().requires_grad_() for name in ("hidden", "weight", "bias")]
    output = teacher_loss(
        student_logits=Head(leaves[1], leaves[2], scale=0.5).logits(leaves[0], NUM_ROWS),
        teacher_logits=Head(sides["teacher_weight"], scale=0.5).logits(sides["teacher_hidden"], NUM_ROWS),
        **given(settings, "cpu"),  # type: ignore[arg-type]
    )
    return results(output, leaves)


def results(output: LossOutput, leaves: list[Tensor]) -> list[Tensor]:
    output.loss.backward()
    return [output.divergence, output.student_entropy, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("chunk_rows", [0, 16])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("divergence", "estimator"), CASES)
def test_loss_and_gradients_are_those_of_the_plain_one(
    divergence: str, estimator: str, dtype: torch.dtype, chunk_rows: int
) -> None:
    settings = LossSettings(
        divergence=divergence,  # type: ignore[arg-type]
        jsd_beta=0.3,
        estimator=estimator,  # type: ignore[arg-type]
        temperature=0.8,
        mismatch="token",
    )
    sides = make_sides(dtype)
    found, expected = on_gpu(sides, settings, dtype, chunk_rows), on_cpu(sides, settings)
    assert len(found) == len(expected) == 5
    for mine, reference in zip(found, expected, strict=True):
        difference = (mine.cpu().double() - reference).abs().max() / reference.abs().max()
        assert difference < TOLERANCE[dtype]
