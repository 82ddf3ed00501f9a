"""One rank of the learner group: the engine, what it is given and what it gives, complete once it is made.

Made after the environment names the ranks, since DeepSpeed reads that when it is imported (see `worker.py`). All ranks
have to make the same calls in the same order: each contains collectives.
"""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError

from sdft_ray.errors import BrokenWeightsError, CheckpointError, NonFiniteError
from sdft_ray.examples import GuardRow
from sdft_ray.learner.adapter_average import AdapterAverage, average_shapes
from sdft_ray.learner.adapter_export import load_export, write_export
from sdft_ray.learner.checkpoint import load_rank, rank_metadata, rank_pieces, write_rank
from sdft_ray.learner.engine import StudentEngine
from sdft_ray.learner.export import export_gap, full_state
from sdft_ray.learner.manifest import SavedFile
from sdft_ray.learner.metrics import OpenStep, token_sums, views_by_sample
from sdft_ray.learner.nonfinite import first_of_all, gradient_place, weight_place
from sdft_ray.learner.objective import Objective
from sdft_ray.learner.roofline import matmul_seconds, measure_matmul
from sdft_ray.learner.scoring import check_student_packing, row_logprobs, student_logits
from sdft_ray.learner.settings import LearnerSettings
from sdft_ray.learner.sleeping import SleepingMemory
from sdft_ray.learner.teacher import TeacherHeads, teacher_head_maker
from sdft_ray.models.adapter import averaged
from sdft_ray.models.network import TORCH_DTYPE, configured_noise, output_head
from sdft_ray.models.state import published_buffers, saved_buffers
from sdft_ray.records import MatmulSeconds, Microbatch, Publication, RankReport, TokenViews
from sdft_ray.tensors import release_freed_memory, synchronize
from sdft_ray.weights.channel import Meeting, RankWeights, Sender, WeightKind
from sdft_ray.weights.fragments import Fragment, Shapes, TeacherAverage


class LearnerRank:
    """Forward, backward, optimizer, average, publish, save."""

    def __init__(self, settings: LearnerSettings, *, rank: int):
        """Joins the other ranks, loads the model and builds the engine.

        Raises:
            ModelError: a weight is NaN or infinite, the network's head is of an unknown kind, or it computes no packing
                rightly.
        """
        self._settings = settings
        self._rank = rank
        torch.manual_seed(settings.seed)
        self._device = torch.device(settings.device)
        self._engine = StudentEngine(settings.model_path, settings.model, settings.learner, settings.device)
        self._network = self._engine.network
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
        self._senders = self._make_senders()
        if WeightKind.STUDENT in settings.weights.masters_in_place:
            self._engine.move_masters(partial(self._senders[WeightKind.STUDENT].allocate, WeightKind.STUDENT))
        self._average = self._make_average()
        self.weight_version = 0
        self._step = OpenStep()
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[SavedFile | str]
        self._make_teacher_head = teacher_head_maker(
            settings,
            self._heads,
            self._network,
            self._engine.shapes(),
            partial(self._fragments_of, WeightKind.EMA),  # the student's where there is no average: a live teacher
            self._device,
        )
        self._make_teacher_head(self.weight_version)
        gradients = self._engine.allocate_gradients() if settings.weights.whole_masters else []
        untrained = [param for param in self._network.parameters() if not param.requires_grad]
        self.sleeping = SleepingMemory(self._engine, self._average, gradients, untrained, self._device)
        release_freed_memory()  # weights that have moved

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
            What student and teacher make of the tokens of each sample. What is NaN or infinite is told in it and not
            raised: the other ranks are in collectives that this rank must not miss, and the driver calls `apply` no
            more. The gradient is lost then, and is never applied.
        """
        started = time.perf_counter()
        output, tops, nonfinite = self._objective(self._engine.forward, microbatch)
        if nonfinite and (name := self._engine.broken_weight()):  # which breaks all that is computed with it
            nonfinite = dict.fromkeys(nonfinite, weight_place(name))
        by_sample = views_by_sample(output, tops, nonfinite, microbatch)
        self._engine.backward(output.loss, is_last=is_last)
        synchronize(self._device)  # or the step's first wait would be taken for the optimizer's
        self._step.add(microbatch, token_sums(output, microbatch), time.perf_counter() - started)
        return by_sample

    def apply(self) -> RankReport:
        """One optimizer step with the accumulated gradient, then one step of the moving average.

        What begins anew with the next stage does so at once, so a checkpoint of a stage boundary holds it.

        Raises:
            NonFiniteError: the gradient norm is not finite; masters, moments and average are as before the step.
        """
        step, self._step = self._step, OpenStep()
        started = time.perf_counter()
        grad_norm = self._apply_gradients(step.example_ids)
        synchronize(self._device)
        optimizer_done = time.perf_counter()
        self.weight_version += 1
        is_boundary = self._settings.plan.is_boundary(self.weight_version)
        if is_boundary and self._settings.stage_boundary.reset_optimizer:
            self._engine.reset_moments()
        if self._average is not None:
            if is_boundary and self._settings.stage_boundary.rebase_teacher:
                self._average.rebase(self._engine.masters())
            else:
                self._average.update(self._engine.masters())
        self._make_teacher_head(self.weight_version)
        synchronize(self._device)
        return step.report(
            grad_norm,
            optimizer_s=optimizer_done - started,
            ema_s=time.perf_counter() - optimizer_done,
        )

    def measure_matmuls(self) -> MatmulSeconds:
        """What the matrix products of the weights take; see `roofline.py`."""
        head, shapes = output_head(self._network).weight, self._engine.shapes(untrained=True)
        (name,) = (name for name, param in self._network.named_parameters() if param is head)
        rate = measure_matmul(self._device, head.dtype)
        return matmul_seconds(shapes, dict(shapes)[name], rate, trains_all=len(shapes) == len(self._engine.shapes()))

    def publish(self, kind: WeightKind) -> Publication | None:
        """Makes the current weights of `kind` available to the workers; handles on rank 0, None elsewhere."""
        return self._senders[kind].publish(kind, self.weight_version)

    def connect(self, meeting: Meeting) -> Publication | None:
        """Joins the rollout engines, to which the student's weights are pushed from now on; tells what will go."""
        return self._senders[WeightKind.STUDENT].connect(meeting)

    def save(self, folder: str, background: bool) -> SavedFile | str | None:
        """Writes this rank's part of a checkpoint, or copies it into host memory and begins to write.

        Returns:
            As `saved`.

        Raises:
            BrokenWeightsError: a weight is NaN or infinite, on whichever rank.
        """
        self._check_weights()
        pieces = rank_pieces(self._engine, self._average, self._rank)
        write = partial(write_rank, Path(folder), self._rank, metadata=rank_metadata(self._engine))
        if not background:
            return write(pieces)
        copies = [piece._replace(values=piece.values.detach().to("cpu", copy=True)) for piece in pieces]
        self._writing = self._writer.submit(write, copies)
        return None

    def saved(self) -> SavedFile | str | None:
        """The file that this rank has written, why it could not be written, or None while it is being written."""
        return self._writing.result() if self._writing.done() else None

    def load(self, folder: str, version: int) -> int:
        """Restores this rank's part of a checkpoint; returns the weight version it now holds."""
        load_rank(Path(folder), self._engine, self._average, self._rank)
        self.weight_version = version
        self._make_teacher_head(self.weight_version)
        return version

    def export(self, folder: str, merged: bool = False) -> None:
        """Writes the student as an ordinary Hugging Face folder, from rank 0; every rank has to call it.

        In the precision it was trained in, whatever the workers hold. Of an adapter a PEFT folder, unless it is
        `merged`: then rank 0 holds one more network in host memory meanwhile.

        Raises:
            CheckpointError: it cannot be written.
            BrokenWeightsError: a weight is NaN or infinite, on whichever rank.
        """
        self._check_weights()
        release_freed_memory()  # makes room for a copy of the weights
        precision = self._settings.learner.precision
        state = self._state(WeightKind.STUDENT, TORCH_DTYPE[precision])
        if self._rank == 0:
            try:
                write_export(self._network, state, Path(folder), self._settings, merged=merged)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"the model could not be written to {folder} ({error}); make room or mend the disk, then write it "
                    "from the last checkpoint, if the run has saved any, with resume=auto."
                ) from error

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
        network = load_export(Path(folder), settings.model_path, settings.learner.precision, model)
        gap = export_gap(network, rows, expected)
        del network
        release_freed_memory()
        return gap

    def weights(self, kind: WeightKind) -> dict[str, torch.Tensor]:
        """The fp32 masters of `kind` on rank 0, empty elsewhere: for comparing, not for transport."""
        return self._state(kind, torch.float32)

    def _state(self, kind: WeightKind, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        fragments, buffers = partial(self._fragments_of, kind), saved_buffers(self._network)
        return full_state(self._shapes_of(kind), fragments, buffers, dtype, self._device)

    def _fragments_of(self, kind: WeightKind) -> Iterator[Fragment]:
        average = self._average if kind is WeightKind.EMA else None
        return self._engine.masters() if average is None else average.fragments()

    def _make_senders(self) -> dict[WeightKind, Sender]:
        weights = RankWeights(
            shapes=self._engine.shapes(),
            fragments=self._fragments_of,
            buffers=partial(published_buffers, self._network),
            dtype=TORCH_DTYPE[self._settings.model.dtype],
            device=self._device,
            average_shapes=self._shapes_of(WeightKind.EMA),
        )
        return self._settings.weights.make_senders(weights)

    def _shapes_of(self, kind: WeightKind) -> Shapes:
        shapes = self._engine.shapes()
        if kind is WeightKind.EMA and self._settings.model.adapter.is_on:
            return average_shapes(shapes, averaged(self._settings.model.adapter))
        return shapes

    def _make_average(self) -> TeacherAverage | AdapterAverage | None:
        if not self._settings.weights.keeps_average:
            return None
        if self._settings.model.adapter.is_on:
            return AdapterAverage(
                self._engine.shapes(),
                averaged(self._settings.model.adapter),
                self._engine.masters(),
                self._settings.teacher.ema_decay,
                self._device,
                rank=self._rank,
                num_ranks=self._engine.num_ranks,
            )
        average = TeacherAverage(self._engine.masters(), self._settings.teacher.ema_decay)
        if WeightKind.EMA in self._settings.weights.masters_in_place:
            average.move(partial(self._senders[WeightKind.EMA].allocate, WeightKind.EMA))
        return average

    def _apply_gradients(self, example_ids: Sequence[str]) -> float:
        norm = self._engine.step(self._settings.plan.learning_rate(self.weight_version))
        if not math.isfinite(norm):
            place = gradient_place(first_of_all(self._engine.broken_gradients))
            raise NonFiniteError(place, self.weight_version + 1, example_ids)
        return norm

    def _check_weights(self) -> None:
        """Refuses weights that are NaN or infinite; every rank has to call it, and all of them refuse."""
        if name := first_of_all(self._engine.broken_weight()):
            raise BrokenWeightsError(name, self.weight_version)
