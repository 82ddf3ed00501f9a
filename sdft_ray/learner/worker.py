"""One DeepSpeed rank in one Ray actor."""

import math
import os
import socket
import time
from collections.abc import Sequence
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
    Target,
    TeacherConfig,
    TeacherWeights,
)
from sdft_ray.errors import NonFiniteError
from sdft_ray.learner.metrics import OpenStep
from sdft_ray.learner.stages import StagePlan
from sdft_ray.models.packing import Packing
from sdft_ray.records import GuardRow, Microbatch, Publication, RankReport, TokenViews
from sdft_ray.tensors import release_freed_memory
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
    guard_rows: tuple[GuardRow, ...]  # what the packing of sequences is checked on
    max_len: int  # tokens of the longest prompt with its completion
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

    def start(self, address: str, port: int) -> Packing:
        """Joins the other ranks, loads the model and builds the engine; returns the packing it computes rightly."""
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
        from sdft_ray.learner.scoring import check_student_packing
        from sdft_ray.learner.settled import settle
        from sdft_ray.learner.teacher_heads import TeacherHeads, teacher_head_maker
        from sdft_ray.models.network import TORCH_DTYPE, output_head

        settings = self._settings
        torch.manual_seed(settings.seed)
        self._device = torch.device(settings.device)
        self._engine = build_engine(settings.model_path, settings.model, settings.learner, settings.device)
        self._network = self._engine.module.network
        self._packing = check_student_packing(
            self._engine, settings.guard_rows, settings.model.attention, settings.max_len, self._device
        )
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
        self._make_teacher_head = teacher_head_maker(
            settings,
            self._heads,
            self._network,
            self._fragments_of(WeightKind.EMA),  # the student's where there is no average: a live teacher
            self._device,
            holds_all=holds_all,
        )
        self._make_teacher_head(self.weight_version)
        if holds_all:
            settle(self._engine)
        release_freed_memory()  # weights that have moved, and what measuring the bound took
        return self._packing.packing

    def notes(self) -> tuple[str, ...]:
        """See `Worker.notes`."""
        from sdft_ray.models.network import configured_noise

        notes = [f"learner: {self._packing.sentence(type(self._network).__name__)}"]
        noise = ", ".join(f"{name}={share:g}" for name, share in configured_noise(self._network).items())
        if noise and not self._settings.model.dropout:
            notes.append(f"learner: {noise} of the model's configuration is off, as it is while the student samples")
        return tuple(notes)

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
        self._step.add(microbatch, token_sums(output, microbatch), time.perf_counter() - started)
        return by_sample

    def apply(self) -> RankReport:
        """One optimizer step with the accumulated gradient, then one step of the moving average.

        What begins anew with the next stage does so at once, so a checkpoint of a border holds it.

        Raises:
            NonFiniteError: the gradient norm is not finite; masters, moments and average are as before the step.
        """
        from sdft_ray.learner.engine import reset_moments

        step, self._step = self._step, OpenStep()
        started = time.perf_counter()
        grad_norm = self._apply_gradients(step.example_ids)
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
        self._make_teacher_head(self.weight_version)
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
        self._make_teacher_head(self.weight_version)
        return version

    def export(self, folder: str) -> None:
        """Writes the student as an ordinary Hugging Face folder, from rank 0; every rank has to call it.

        In the precision it was trained in, whatever the workers hold.
        """
        from sdft_ray.learner.export import export_student
        from sdft_ray.learner.publisher import full_state
        from sdft_ray.models.network import TORCH_DTYPE

        release_freed_memory()  # makes room for a copy of the weights
        precision = self._settings.learner.precision
        state = full_state(self._network, self._student, TORCH_DTYPE[precision], self._device)
        if self.rank == 0:
            export_student(self._network, state, Path(folder), Path(self._settings.model_path), precision)

    def logprobs(self, rows: Sequence[GuardRow]) -> list[tuple[float, ...]]:
        """Logprobs [T, nats] of the completion tokens of every row at temperature 1; every rank has to call it."""
        from sdft_ray.learner.scoring import row_logprobs, student_logits

        return row_logprobs(student_logits(self._engine, rows, self._settings.num_tokens, self._device), rows)

    def export_gap(self, folder: str, rows: Sequence[GuardRow]) -> float:
        """What an exported folder's logits differ from the student's, over their range; 0 on ranks other than 0.

        Every rank has to call it. Rank 0 holds one more network in host memory meanwhile.
        """
        from sdft_ray.learner.export import export_gap
        from sdft_ray.learner.scoring import student_logits

        settings = self._settings
        expected = student_logits(self._engine, rows, settings.num_tokens, self._device)
        if self.rank != 0:
            return 0.0
        gap = export_gap(Path(folder), settings.learner.precision, settings.model, rows, expected)
        release_freed_memory()
        return gap

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

    def _apply_gradients(self, example_ids: Sequence[str]) -> float:
        from sdft_ray.learner.engine import take_step

        rate = self._settings.plan.learning_rate(self.weight_version)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        norm = take_step(self._engine)
        if not math.isfinite(norm):
            raise NonFiniteError("gradient", self.weight_version + 1, example_ids)
        return norm
