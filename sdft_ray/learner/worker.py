"""One DeepSpeed rank in one Ray actor."""

import math
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdft_ray.config import LearnerConfig, LossConfig, ModelConfig, Target, TeacherWeights
from sdft_ray.errors import NonFiniteError
from sdft_ray.records import Microbatch, Publication, RankReport
from sdft_ray.weights.channel import WeightKind
from sdft_ray.workers import Worker


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerSettings:
    """The settings a rank needs, and no more."""

    model_path: str
    model: ModelConfig
    learner: LearnerConfig
    loss: LossConfig
    target: Target
    teacher_weights: TeacherWeights
    ema_decay: float
    temperature: float
    num_tokens: int  # vocabulary rows that count; the rest is padding
    num_steps: int
    seed: int
    device: str  # "cpu" or "cuda"


class LearnerWorker(Worker):
    """A rank of the learner group: forward, backward, optimizer, average, publish, save.

    All ranks have to make the same calls in the same order, since each contains collectives.
    """

    role = "learner"

    def __init__(self, *, rank: int, num_ranks: int, log_dir: str, settings: LearnerSettings):
        super().__init__(rank, log_dir)
        self._num_ranks = num_ranks
        self._settings = settings

    def rendezvous(self) -> tuple[str, int]:
        """An address and a free port on this worker's node, for all ranks to meet at; asked of rank 0."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def start(self, address: str, port: int) -> int:
        """Joins the other ranks, loads the model and builds the engine; returns the weight version."""
        # DeepSpeed and torch.distributed read these when they are imported and initialised, and nowhere else.
        os.environ |= {
            "RANK": str(self.rank),
            "LOCAL_RANK": "0",  # Ray shows every actor only its own GPU
            "WORLD_SIZE": str(self._num_ranks),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
        }
        from sdft_ray.learner.engine import build_engine
        from sdft_ray.learner.objective import Objective
        from sdft_ray.learner.publisher import Publisher
        from sdft_ray.models.network import TORCH_DTYPE

        settings = self._settings
        torch.manual_seed(settings.seed)
        self._device = torch.device(settings.device)
        self._engine = build_engine(settings.model_path, settings.model, settings.learner, settings.device)
        self._objective = Objective(
            settings.target, settings.loss, settings.temperature, settings.num_tokens, self._device
        )
        self._publisher = Publisher(self._engine.module, TORCH_DTYPE[settings.model.dtype], self._device)
        self._average = self._make_average()
        self.weight_version = 0
        return self.weight_version

    def step(self, microbatches: list[Microbatch]) -> RankReport:
        """One optimizer step over this rank's microbatches, then one step of the moving average.

        Raises:
            NonFiniteError: the loss of a microbatch (before it touches a gradient) or the gradient norm is not finite.
        """
        from sdft_ray.learner.objective import divergence_by_sample, token_sums

        started = time.perf_counter()
        sums, divergences = [], []
        for index, microbatch in enumerate(microbatches):
            self._engine.set_gradient_accumulation_boundary(index == len(microbatches) - 1)
            output = self._objective(self._engine, microbatch)
            by_sample = divergence_by_sample(output, microbatch)
            self._check_loss(output.loss, by_sample, microbatch)
            # DeepSpeed averages gradients over ranks; the loss is already a share of the global batch's.
            self._engine.backward(output.loss * self._num_ranks)
            sums.append(token_sums(output, microbatch))
            divergences += [values.numpy() for values in by_sample]
        backward_done = time.perf_counter()
        grad_norm = self._apply_gradients(microbatches)
        optimizer_done = time.perf_counter()
        if self._average is not None:
            self._average.update(self._student())
        self.weight_version += 1
        return RankReport(
            counted_tokens=sum(part.counted_tokens for part in sums),
            loss=math.fsum(part.loss for part in sums),
            divergence=math.fsum(part.divergence for part in sums),
            student_entropy=math.fsum(part.student_entropy for part in sums),
            teacher_entropy=math.fsum(part.teacher_entropy for part in sums),
            correction=math.fsum(part.correction for part in sums),
            mismatch_max=max(part.mismatch_max for part in sums),
            grad_norm=grad_norm,
            durations_s={
                "learner/forward_backward_s": backward_done - started,
                "learner/optimizer_s": optimizer_done - backward_done,
                "learner/ema_s": time.perf_counter() - optimizer_done,
            },
            token_divergence=tuple(divergences),
        )

    def publish(self, kind: WeightKind) -> Publication | None:
        """Puts the current weights of `kind` into the object store; handles on rank 0, None elsewhere."""
        return self._publisher.publish(self.weight_version, self._fragments_of(kind))

    def save(self, folder: str) -> None:
        """Writes this rank's part of a checkpoint."""
        from sdft_ray.learner.checkpoint import save_rank

        save_rank(Path(folder), self._engine, self._average, self.rank)

    def load(self, folder: str, version: int) -> int:
        """Restores this rank's part of a checkpoint; returns the weight version it now holds."""
        from sdft_ray.learner.checkpoint import load_rank

        load_rank(Path(folder), self._engine, self._average, self.rank)
        self.weight_version = version
        return version

    def export(self, folder: str) -> None:
        """Writes the student as an ordinary Hugging Face folder, from rank 0; every rank has to call it.

        In the precision it was trained in, whatever the workers hold.
        """
        from sdft_ray.models.network import TORCH_DTYPE

        dtype = TORCH_DTYPE[self._settings.learner.precision]
        state = self._publisher.state_dict(self._student, dtype)
        if self.rank == 0:
            self._engine.module.config.dtype = dtype
            self._engine.module.save_pretrained(folder, state_dict=state)

    def weights(self, kind: WeightKind) -> dict[str, torch.Tensor]:
        """The fp32 masters of `kind` on rank 0, empty elsewhere: for comparing, not for transport."""
        return self._publisher.state_dict(self._fragments_of(kind), torch.float32)

    def close(self) -> None:
        """Leaves the group of ranks."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def _fragments_of(self, kind: WeightKind) -> Any:
        return self._average.fragments if kind is WeightKind.EMA and self._average is not None else self._student

    def _student(self) -> Any:
        from sdft_ray.learner.fragments import master_fragments

        return master_fragments(self._engine.module, self.rank, self._num_ranks)

    def _make_average(self) -> Any:
        from sdft_ray.learner.average import TeacherAverage

        settings = self._settings
        if settings.target is not Target.TEACHER or settings.teacher_weights is not TeacherWeights.EMA:
            return None
        return TeacherAverage(self._student(), settings.ema_decay)

    def _check_loss(self, loss: torch.Tensor, by_sample: list[torch.Tensor], microbatch: Microbatch) -> None:
        if torch.isfinite(loss):
            return
        guilty = [
            example_id
            for example_id, divergence in zip(microbatch.example_ids, by_sample, strict=True)
            if not divergence.isfinite().all()
        ]
        raise NonFiniteError("loss", self.weight_version + 1, guilty or microbatch.example_ids)

    def _apply_gradients(self, microbatches: list[Microbatch]) -> float:
        from sdft_ray.learner.engine import gradient_norm
        from sdft_ray.learner.optimizer import learning_rate

        rate = learning_rate(self._settings.learner, self.weight_version, self._settings.num_steps)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        norm_before_step = gradient_norm(self._engine)
        self._engine.step()
        norm = norm_before_step if norm_before_step is not None else self._engine.get_global_grad_norm()
        if not math.isfinite(norm):
            ids = [example_id for microbatch in microbatches for example_id in microbatch.example_ids]
            raise NonFiniteError("gradient", self.weight_version + 1, ids)
        return float(norm)
