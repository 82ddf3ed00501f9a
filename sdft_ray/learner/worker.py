"""One DeepSpeed rank in one Ray actor."""

import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sdft_ray.config import (
    BorderConfig,
    Channel,
    LearnerConfig,
    LossConfig,
    ModelConfig,
    Payload,
    Target,
    TeacherConfig,
    TeacherWeights,
)
from sdft_ray.errors import NonFiniteError
from sdft_ray.learner.metrics import OpenStep
from sdft_ray.learner.stages import StagePlan
from sdft_ray.records import Microbatch, Publication, RankReport, TokenViews
from sdft_ray.tensors import release_freed_memory, synchronize
from sdft_ray.weights.channel import Meeting, WeightKind
from sdft_ray.workers import Worker


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerSettings:
    """The settings a rank needs, and no more."""

    model_path: str
    model: ModelConfig
    learner: LearnerConfig
    loss: LossConfig
    target: Target
    teacher: TeacherConfig
    teacher_path: str  # where a frozen teacher's weights lie
    max_staleness: int
    temperature: float
    num_tokens: int  # vocabulary rows that count; the rest is padding
    plan: StagePlan
    border: BorderConfig
    channel: Channel  # that publishes weights; AUTO is settled by then
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
        from sdft_ray.learner.bound import MatmulBound
        from sdft_ray.learner.engine import build_engine
        from sdft_ray.learner.fragments import move_parameters
        from sdft_ray.learner.objective import Objective
        from sdft_ray.learner.publisher import Publisher, make_publisher
        from sdft_ray.learner.settled import settle
        from sdft_ray.learner.teacher_heads import TeacherHeads
        from sdft_ray.models.network import TORCH_DTYPE, output_head

        settings = self._settings
        torch.manual_seed(settings.seed)
        self._device = torch.device(settings.device)
        self._engine = build_engine(settings.model_path, settings.model, settings.learner, settings.device)
        self._network = self._engine.module.network
        self._heads = TeacherHeads(settings.max_staleness + 1)
        self._objective = Objective(
            target=settings.target,
            loss=settings.loss,
            tail=settings.teacher.tail,
            temperature=settings.temperature,
            num_tokens=settings.num_tokens,
            heads=self._heads,
            device=self._device,
        )
        dtype = TORCH_DTYPE[settings.model.dtype]
        self._publisher: Publisher = make_publisher(settings.channel, self._network, dtype, self._device)
        holds_all = settings.learner.holds_all(self._num_ranks)
        if holds_all:
            move_parameters(self._network, partial(self._publisher.house, WeightKind.STUDENT))
        self._average = self._make_average()
        parameters = dict(self._network.named_parameters())
        self._bound = MatmulBound(parameters, output_head(self._network).weight, self._device)
        self.weight_version = 0
        self._step = OpenStep()
        self._make_teacher_head = self._head_maker()
        self._make_teacher_head()
        if holds_all:
            settle(self._engine)
        release_freed_memory()  # weights that have moved, and what measuring the bound took
        return self.weight_version

    def accumulate(self, microbatch: Microbatch, is_last: bool) -> list[TokenViews]:
        """Adds this rank's part of one round to the gradient.

        Args:
            microbatch: its samples.
            is_last: whether this is the last round of the step.

        Returns:
            What student and teacher make of the tokens of each sample.

        Raises:
            NonFiniteError: the loss is not finite; it has not touched the gradient.
        """
        from sdft_ray.learner.objective import check_loss, token_sums, views_by_sample

        started = time.perf_counter()
        self._engine.set_gradient_accumulation_boundary(is_last)
        output, tops = self._objective(self._engine, microbatch)
        by_sample = views_by_sample(output, tops, microbatch)
        check_loss(output.loss, by_sample, microbatch, self.weight_version + 1)
        # DeepSpeed averages gradients over ranks; the loss is already a share of the global batch's.
        self._engine.backward(output.loss * self._num_ranks)
        synchronize(self._device)  # or the step's first wait would be taken for the optimizer's
        self._step.add(microbatch, token_sums(output, microbatch), time.perf_counter() - started)
        return by_sample

    def apply(self) -> RankReport:
        """One optimizer step with the accumulated gradient, then one step of the moving average.

        What begins anew with the next stage does so at once, so a checkpoint of a border holds it.

        Raises:
            NonFiniteError: the gradient norm is not finite.
        """
        from sdft_ray.learner.engine import reset_moments

        step, self._step = self._step, OpenStep()
        started = time.perf_counter()
        grad_norm = self._apply_gradients(step.example_ids)
        synchronize(self._device)
        optimizer_done = time.perf_counter()
        self.weight_version += 1
        is_border = self._settings.plan.is_border(self.weight_version)
        if is_border and self._settings.border.reset_optimizer:
            reset_moments(self._engine)
        if self._average is not None:
            if is_border and self._settings.border.rebase_teacher:
                self._average.rebase(self._student())
            else:
                self._average.update(self._student())
        self._make_teacher_head()
        synchronize(self._device)
        return step.report(
            grad_norm,
            bound_s=self._bound.seconds(step.input_tokens, step.head_rows),
            optimizer_s=optimizer_done - started,
            ema_s=time.perf_counter() - optimizer_done,
        )

    def publish(self, kind: WeightKind) -> Publication | None:
        """Makes the current weights of `kind` available to the workers; handles on rank 0, None elsewhere."""
        return self._publisher.publish(kind, self.weight_version, self._fragments_of(kind))

    def meet_engines(self, meeting: Meeting) -> Publication:
        """Joins the rollout engines, to which the student's weights go directly from now on; tells what will go."""
        from sdft_ray.learner.publisher import DirectPublisher
        from sdft_ray.models.network import TORCH_DTYPE

        dtype = TORCH_DTYPE[self._settings.model.dtype]
        self._publisher = DirectPublisher(
            self._network, dtype, self._device, self._student, meeting, others=self._publisher
        )
        return self._publisher.announcement(self.weight_version)

    def save(self, folder: str) -> None:
        """Writes this rank's part of a checkpoint."""
        from sdft_ray.learner.checkpoint import save_rank

        save_rank(Path(folder), self._engine, self._average, self.rank)

    def load(self, folder: str, version: int) -> int:
        """Restores this rank's part of a checkpoint; returns the weight version it now holds."""
        from sdft_ray.learner.checkpoint import load_rank

        load_rank(Path(folder), self._engine, self._average, self.rank)
        self.weight_version = version
        self._make_teacher_head()
        return version

    def export(self, folder: str) -> None:
        """Writes the student as an ordinary Hugging Face folder, from rank 0; every rank has to call it.

        In the precision it was trained in, whatever the workers hold.
        """
        from sdft_ray.learner.publisher import full_state
        from sdft_ray.models.network import TORCH_DTYPE

        release_freed_memory()  # makes room for a copy of the weights
        dtype = TORCH_DTYPE[self._settings.learner.precision]
        state = full_state(self._network, self._student, dtype, self._device)
        if self.rank == 0:
            self._network.config.dtype = dtype
            self._network.save_pretrained(folder, state_dict=state)

    def weights(self, kind: WeightKind) -> dict[str, torch.Tensor]:
        """The fp32 masters of `kind` on rank 0, empty elsewhere: for comparing, not for transport."""
        from sdft_ray.learner.publisher import full_state

        return full_state(self._network, self._fragments_of(kind), torch.float32, self._device)

    def close(self) -> None:
        """Leaves the group of ranks."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def _fragments_of(self, kind: WeightKind) -> Any:
        return self._average.fragments if kind is WeightKind.EMA and self._average is not None else self._student

    def _student(self) -> Any:
        from sdft_ray.learner.fragments import master_fragments

        return master_fragments(self._network, self.rank, self._num_ranks)

    def _make_average(self) -> Any:
        from sdft_ray.learner.average import TeacherAverage

        settings = self._settings
        if settings.target is not Target.TEACHER or settings.teacher.weights is not TeacherWeights.EMA:
            return None
        average = TeacherAverage(self._student(), settings.teacher.ema_decay)
        average.move(partial(self._publisher.house, WeightKind.EMA))
        return average

    def _head_maker(self) -> Callable[[], None]:
        """What has to be called with every new weight version so that hidden states of the teacher can be used."""
        from sdft_ray.learner.teacher_heads import HeadMaker
        from sdft_ray.models.network import TORCH_DTYPE, load_head, output_head

        settings = self._settings
        if settings.target is not Target.TEACHER or settings.teacher.payload is not Payload.HIDDEN:
            return lambda: None
        if settings.teacher.weights is TeacherWeights.FROZEN:
            self._heads.hold(0, load_head(settings.teacher_path, settings.model.dtype, self._device))
            return lambda: None
        dtype = TORCH_DTYPE[settings.model.dtype]
        maker = HeadMaker(
            output_head(self._network),
            dict(self._network.named_parameters()),
            dtype,
            self._device,
            # On-policy, all samples of a version are trained on before the weights change.
            in_place=settings.learner.holds_all(self._num_ranks)
            and dtype is torch.float32
            and settings.max_staleness == 0,
        )
        fragments = self._fragments_of(WeightKind.EMA)  # the student's where there is no average: a live teacher
        return lambda: self._heads.hold(self.weight_version, maker.make(fragments))

    def _apply_gradients(self, example_ids: Sequence[str]) -> float:
        from sdft_ray.learner.engine import gradient_norm

        rate = self._settings.plan.learning_rate(self.weight_version)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        norm_before_step = gradient_norm(self._engine)
        self._engine.step()
        norm = norm_before_step if norm_before_step is not None else self._engine.get_global_grad_norm()
        if not math.isfinite(norm):
            raise NonFiniteError("gradient", self.weight_version + 1, example_ids)
        return float(norm)
