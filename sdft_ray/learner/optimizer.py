"""How DeepSpeed and AdamW are set up. Beside `engine.py`, which is behind the wall: nothing here imports DeepSpeed."""

from collections.abc import Iterable
from typing import Any

import torch

from sdft_ray.config import LearnerConfig, Precision


def deepspeed_settings(cfg: LearnerConfig, *, on_gpu: bool) -> dict[str, Any]:
    """The DeepSpeed configuration of one rank.

    One micro step a step: the boundary of gradient accumulation is set by hand, since a step has as many
    microbatches as its tokens need, and the loss already holds its normalisation over the global batch.
    """
    zero: dict[str, Any] = {"stage": cfg.zero_stage}
    if cfg.zero_stage == 3:
        # Small parameters are otherwise kept whole on every rank, and their partition is not what is averaged.
        zero |= {"stage3_param_persistence_threshold": 0}
    if cfg.offload:
        zero |= {"offload_optimizer": {"device": "cpu", "pin_memory": on_gpu}}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": cfg.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # torch's fused AdamW runs on CPU tensors as well: one optimizer in both places, whose state checkpoints know.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    if cfg.precision is Precision.BFLOAT16:
        settings |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return settings


def make_optimizer(parameters: Iterable[torch.nn.Parameter], cfg: LearnerConfig) -> torch.optim.AdamW:
    """AdamW as the paper uses it; its learning rate is set before every step from `learning_rate`."""
    return torch.optim.AdamW(
        parameters,
        lr=cfg.learning_rate,
        betas=(cfg.adam_beta1, cfg.adam_beta2),
        eps=cfg.adam_epsilon,
        weight_decay=cfg.weight_decay,
        fused=True,  # one pass over parameter, gradient and both moments instead of a dozen
    )
