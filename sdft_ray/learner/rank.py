"""One rank of the learner group: the engine, what it is given and what it gives, complete once it is made.

Made after the environment names the ranks, since DeepSpeed reads that when it is imported (see `worker.py`). All ranks
have to make the same calls in the same order: each contains collectives.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from sdft_ray.errors import NonFiniteError
from sdft_ray.learner.average import TeacherAverage
from sdft_ray.learner.bound import MatmulBound
from sdft_ray.learner.checkpoint import load_rank, save_rank
from sdft_ray.learner.engine import build_engine, reset_moments, take_step
from sdft_ray.learner.export import export_gap, export_student
from sdft_ray.learner.fragments import Fragment, master_fragments, move_parameters
from sdft_ray.learner.metrics import OpenStep
from sdft_ray.learner.objective import Objective, check_loss, token_sums, views_by_sample
from sdft_ray.learner.publisher import DirectPublisher, Fragments, Publisher, full_state, make_publisher
from sdft_ray.learner.scoring import check_student_packing, row_logprobs, student_logits
from sdft_ray.learner.settings import LearnerSettings
from sdft_ray.learner.settled import settle
from sdft_ray.learner.teacher_heads import TeacherHeads, teacher_head_maker
from sdft_ray.models.network import TORCH_DTYPE, configured_noise, output_head
from sdft_ray.records import GuardRow, Microbatch, Publication, RankReport, TokenViews
from sdft_ray.tensors import release_freed_memory, synchronize
from sdft_ray.weights.channel import Meeting, WeightKind


class LearnerRank:
    """Forward, backward, optimizer, average, publish, save."""

    def __init__(self, settings: LearnerSettings, *, rank: int, num_ranks: int):
        """Joins the other ranks, loads the model and builds the engine.

        Raises:
            ModelError: the network's head is of an unknown kind, or it computes no packing rightly.
        """
        self._settings = settings
        self._rank, self._num_ranks = rank, num_ranks
        torch.manual_seed(settings.seed)
        self._device = torch.device(settings.device)
        self._engine = build_engine(settings.model_path, settings.model, settings.learner, settings.device)
        self._network = self._engine.module.network
        self.packing = check_student_packing(
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
        self._publisher: Publisher = make_publisher(
            settings.weights.student_channel, self._network, dtype, self._device
        )
        if WeightKind.STUDENT in settings.weights.masters_in_place:
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
        )
        self._make_teacher_head(self.weight_version)
        if settings.weights.whole_masters:
            settle(self._engine)
        release_freed_memory()  # weights that have moved, and what measuring the bound took

    def notes(self) -> tuple[str, ...]:
        """See `Worker.notes`."""
        notes = [f"learner: {self.packing.sentence(type(self._network).__name__)}"]
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
            NonFiniteError: the gradient norm is not finite; masters, moments and average are as before the step.
        """
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
        self._make_teacher_head(self.weight_version)
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
        dtype = TORCH_DTYPE[self._settings.model.dtype]
        self._publisher = DirectPublisher(
            self._network, dtype, self._device, self._student, meeting, others=self._publisher
        )
        return self._publisher.announcement(self.weight_version)

    def save(self, folder: str) -> None:
        """Writes this rank's part of a checkpoint."""
        save_rank(Path(folder), self._engine, self._average, self._rank)

    def load(self, folder: str, version: int) -> int:
        """Restores this rank's part of a checkpoint; returns the weight version it now holds."""
        load_rank(Path(folder), self._engine, self._average, self._rank)
        self.weight_version = version
        self._make_teacher_head(self.weight_version)
        return version

    def export(self, folder: str) -> None:
        """Writes the student as an ordinary Hugging Face folder, from rank 0; every rank has to call it.

        In the precision it was trained in, whatever the workers hold.
        """
        release_freed_memory()  # makes room for a copy of the weights
        precision = self._settings.learner.precision
        state = full_state(self._network, self._student, TORCH_DTYPE[precision], self._device)
        if self._rank == 0:
            export_student(self._network, state, Path(folder), Path(self._settings.model_path), precision)

    def logprobs(self, rows: Sequence[GuardRow]) -> list[tuple[float, ...]]:
        """Logprobs [T, nats] of the completion tokens of every row at temperature 1; every rank has to call it."""
        return row_logprobs(student_logits(self._engine, rows, self._settings.num_tokens, self._device), rows)

    def export_gap(self, folder: str, rows: Sequence[GuardRow]) -> float:
        """What an exported folder's logits differ from the student's, over their range; 0 on ranks other than 0.

        Every rank has to call it. Rank 0 holds one more network in host memory meanwhile.
        """
        settings = self._settings
        expected = student_logits(self._engine, rows, settings.num_tokens, self._device)
        if self._rank != 0:
            return 0.0
        model = replace(settings.model, attention=self.packing.attention)  # with which the student has computed
        gap = export_gap(Path(folder), settings.learner.precision, model, rows, expected)
        release_freed_memory()
        return gap

    def weights(self, kind: WeightKind) -> dict[str, torch.Tensor]:
        """The fp32 masters of `kind` on rank 0, empty elsewhere: for comparing, not for transport."""
        return full_state(self._network, self._fragments_of(kind), torch.float32, self._device)

    def _fragments_of(self, kind: WeightKind) -> Fragments:
        return self._average.fragments if kind is WeightKind.EMA and self._average is not None else self._student

    def _student(self) -> Iterator[Fragment]:
        return master_fragments(self._network, self._rank, self._num_ranks)

    def _make_average(self) -> TeacherAverage | None:
        if not self._settings.weights.keeps_average:
            return None
        average = TeacherAverage(self._student(), self._settings.teacher.ema_decay)
        if WeightKind.EMA in self._settings.weights.masters_in_place:
            average.move(partial(self._publisher.house, WeightKind.EMA))
        return average

    def _apply_gradients(self, example_ids: Sequence[str]) -> float:
        rate = self._settings.plan.learning_rate(self.weight_version)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        norm = take_step(self._engine)
        if not math.isfinite(norm):
            raise NonFiniteError("gradient", self.weight_version + 1, example_ids)
        return norm
