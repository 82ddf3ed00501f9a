"""One AdamW step on the host, which learner.offload takes: torch's fused one, and DeepSpeed's CPU Adam beside it.

The learner takes torch's: checkpoints know its moments (docs/one-gpu.md). DeepSpeed's is compiled at its first use.
"""

import os
from typing import Any

import torch

from sdft_ray.config import LearnerConfig
from sdft_ray.learner.optimizer import make_optimizer
from tests.gpu_check.checks import fastest_s, hold, off
from tests.gpu_check.parts import Place

ELEMENTS = {"cuda": 2**28, "cpu": 2**22}  # on a GPU's host 4 GiB with gradient and moments, for each of both
NUM_STEPS = 5
TOLERANCE = 1e-4  # of the largest weight


def measure(place: Place) -> dict[str, Any]:
    """Both from the same weights and gradients."""
    if place.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    cfg, rows, weights = LearnerConfig(learning_rate=1e-3), [], []
    for name in ("torch, fused", "DeepSpeed's CPU Adam"):
        generator = torch.Generator().manual_seed(0)
        param = torch.nn.Parameter(torch.randn(ELEMENTS[place.device], generator=generator))
        optimizer: torch.optim.Optimizer = (
            make_optimizer([param], cfg)
            if name == "torch, fused"
            else DeepSpeedCPUAdam(
                [param],
                lr=cfg.learning_rate,
                betas=(cfg.adam_beta1, cfg.adam_beta2),
                eps=cfg.adam_epsilon,
                weight_decay=cfg.weight_decay,
                adamw_mode=True,
            )
        )
        for _ in range(NUM_STEPS):
            param.grad = torch.randn(param.shape, generator=generator)
            optimizer.step()
        weights.append(param.detach()[:100_000].clone())
        step_s = fastest_s("cpu", optimizer.step, repeats=3)
        rows.append(
            {"optimizer": name, "elements": param.numel(), "threads": torch.get_num_threads(), "step_s": step_s}
        )
    hold("weights after the same steps", off(weights[1], weights[0]), TOLERANCE)
    return {"tables": {"": rows}}
