"""The DeepSpeed engine of one rank; this module and fragments.py are all that import DeepSpeed.

The worker, the checkpoint, persistent gradients and the student call methods of the engine that is built here.
"""

import math
from typing import Any

import deepspeed
import torch
from transformers.integrations import HfDeepSpeedConfig

from sdft_ray.config import LearnerConfig, ModelConfig
from sdft_ray.learner.compile_lock import clear_compile_locks
from sdft_ray.learner.optimizer import deepspeed_settings, make_optimizer
from sdft_ray.learner.student import Student, check_partitioned_head
from sdft_ray.models.network import check_head, load_network
from sdft_ray.models.state import copy_buffers, saved_buffers


def build_engine(model_path: str, model: ModelConfig, cfg: LearnerConfig, device: str) -> Any:
    """Joins the process group and wraps the student.

    Under ZeRO 3 the weights are cut up while they are loaded, so no rank ever holds the whole model.
    """
    clear_compile_locks()
    deepspeed.init_distributed(dist_backend="nccl" if device == "cuda" else "gloo")
    settings = deepspeed_settings(cfg)
    # transformers asks a weak reference to this object whether to load in parts: it must outlive the loading.
    partitioned_loading = HfDeepSpeedConfig(settings) if cfg.zero_stage == 3 else None
    network = load_network(model_path, cfg.precision, model)
    del partitioned_loading
    if cfg.zero_stage < 3:  # a partitioned network runs inside its engine only: see below
        check_head(network)
    if cfg.gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    student = Student(network, dropout=model.dropout)
    buffers = saved_buffers(network)
    engine, _, _, _ = deepspeed.initialize(
        model=student,
        optimizer=make_optimizer(student.parameters(), cfg),
        config=settings,
    )
    copy_buffers(network, buffers)  # DeepSpeed rounds all floating ones to bf16 where it trains in bf16
    if cfg.zero_stage == 0 and engine.dp_world_size == 1:
        # The sum over one rank would still go through a flat copy of all gradients.
        engine.enable_backward_allreduce = False
    if cfg.zero_stage == 3:
        engine.eval()
        check_partitioned_head(engine)
    engine.train()
    return engine


def reset_moments(engine: Any) -> None:
    """Makes the optimizer one that has taken no step; in place, since ZeRO holds on to these tensors."""
    for state in engine.basic_optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()


def take_step(engine: Any) -> float:
    """Takes the optimizer step with the accumulated gradient; the gradients are already summed over ranks.

    Where the gradient is NaN or infinite no step is taken: masters and moments stay as they are.

    Returns:
        The global gradient norm before clipping.
    """
    if engine.zero_optimization():
        engine.step()  # looks at the norm itself, and takes no step if that is not finite
        return float(engine.get_global_grad_norm())
    # Without ZeRO DeepSpeed neither reports a norm nor looks at it.
    gradients = [param.grad for param in engine.module.parameters() if param.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    if math.isfinite(norm):
        engine.step()
    return norm
