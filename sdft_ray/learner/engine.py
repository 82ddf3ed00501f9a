"""The DeepSpeed engine of one rank; with optimizer.py and fragments.py the only code that knows DeepSpeed."""

from typing import Any

import deepspeed
import torch
from transformers.integrations import HfDeepSpeedConfig

from sdft_ray.config import LearnerConfig, ModelConfig
from sdft_ray.learner.compile_lock import clear_compile_locks
from sdft_ray.learner.optimizer import deepspeed_settings, make_optimizer
from sdft_ray.learner.student import Student
from sdft_ray.models.network import check_head, load_network


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
    if cfg.zero_stage < 3:  # a partitioned network cannot run outside its engine
        check_head(network)
    if cfg.gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    student = Student(network)
    engine, _, _, _ = deepspeed.initialize(
        model=student,
        optimizer=make_optimizer(student.parameters(), cfg),
        config=settings,
    )
    if cfg.zero_stage == 0 and engine.dp_world_size == 1:
        # The sum over one rank would still go through a flat copy of all gradients.
        engine.enable_backward_allreduce = False
    engine.train()
    return engine


def reset_moments(engine: Any) -> None:
    """Makes the optimizer one that has taken no step; in place, since ZeRO holds on to these tensors."""
    for state in engine.basic_optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()


def gradient_norm(engine: Any) -> float | None:
    """The global gradient norm where DeepSpeed does not report it (without ZeRO), else None.

    Call it before `engine.step`, which clips and clears the gradients; they are already summed over ranks.
    """
    if engine.zero_optimization():
        return None
    gradients = [param.grad for param in engine.module.parameters() if param.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))
