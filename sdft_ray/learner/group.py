"""The learner group as the loop sees it: one student, however many ranks hold it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdft_ray.config import LearnerConfig, LossConfig, Normalization
from sdft_ray.data.copying import copied_share
from sdft_ray.data.reasoning import AnswerStart
from sdft_ray.errors import NonFiniteError
from sdft_ray.examples import GuardRow
from sdft_ray.learner import checkpoint
from sdft_ray.learner.nonfinite import remedy_of, worst_of
from sdft_ray.learner.saving import CheckpointWriter, SavingPlan
from sdft_ray.learner.schedule import Round, StagePlan, WeightedSample, cut_rounds, token_weights
from sdft_ray.learner.step_metrics import step_metrics
from sdft_ray.models.packing import Packing
from sdft_ray.records import MatmulSeconds, Publication, RankReport, Sample, SampleReport, StepReport, TokenViews
from sdft_ray.tracking.phases import PhaseTimer
from sdft_ray.weights.channel import WeightKind
from sdft_ray.workers.deadlines import Pace, Work
from sdft_ray.workers.group import WorkerGroup
from sdft_ray.workers.spans import span

LOAD, EXPORT, READ_EXPORT = (Work(kind, pace=Pace.STORAGE) for kind in ("load", "export", "read export"))


class LearnerGroup:
    """Implements `roles.Learner` on DeepSpeed ranks."""

    def __init__(
        self,
        workers: WorkerGroup,
        *,
        learner: LearnerConfig,
        loss: LossConfig,
        plan: StagePlan,
        sampled: bool,
        num_report_samples: int,
        saving: SavingPlan,
        answer_start: AnswerStart | None = None,
    ):
        """Knows its ranks; `answer_start` says where the loss of a completion may begin, if not at once."""
        self.workers = workers
        self.weight_version = 0
        self._learner = learner
        self._loss = loss
        self._plan = plan
        self.packing = Packing.END_TO_END  # the ranks tell what their network computes when they start
        self._sampled = sampled
        self._num_report_samples = num_report_samples
        self.checkpoints = CheckpointWriter(workers, saving)
        self._answer_start = answer_start
        self._matmuls: list[MatmulSeconds] = []
        # Held while a step changes the weights, and while a worker that comes in between two versions loads them.
        self.unchanged = asyncio.Lock()
        self._with_payload: Callable[[Sample], Awaitable[Sample]] | None = None

    def check_payloads(self, with_payload: Callable[[Sample], Awaitable[Sample]]) -> None:
        """Has `with_payload` look at every sample before it is trained on, which scores it again if it has to."""
        self._with_payload = with_payload

    async def start(self) -> None:
        """Returns when every rank has loaded the model and joined the others."""
        start = Work("start", pace=Pace.START)
        if self.workers.size > 1:  # torch would wait half an hour for a rank that a firewall keeps out
            door = await self.workers.on_first(lambda actor: actor.listen.remote(), start)
            await self.workers.on_all(lambda actor: actor.reach.remote(*door), start)
        address, port = await self.workers.on_first(lambda actor: actor.rendezvous.remote(), start)
        packings = await self.workers.on_all(lambda actor: actor.start.remote(address, port), start)
        await self.workers.locate()
        self.packing = max(packings, key=lambda packing: packing.value)  # the most careful, should ranks differ

    async def measure_matmuls(self) -> None:
        """Measures what `learner/matmul_share` is held against; called when no role has anything to do."""
        self._matmuls = await self.workers.on_all(lambda actor: actor.measure_matmuls.remote(), Work("measure"))

    async def step(self, samples: AsyncIterator[Sample]) -> StepReport:
        """See `roles.Learner.step`.

        The ranks get the samples in rounds, each as soon as it is complete. With Normalization.TOKEN_MEAN the first
        round waits for the last sample, since no token's weight is known before.
        """
        version = self.weight_version
        trained, wait_s = await self._accumulate(samples)
        applying = asyncio.create_task(self._apply(trained))
        try:
            reports = await asyncio.shield(applying)
        except asyncio.CancelledError:
            await asyncio.wait([applying])  # the ranks end the step all the same, so it has to be counted
            raise
        metrics = step_metrics(
            trained, reports, weight_version=version, sampled=self._sampled, matmuls=self._matmuls
        ) | {
            "learner/uncounted_samples": float(sum(not sample.num_counted for sample in trained)),
            "learner/learning_rate": self._plan.learning_rate(version),
            "loop/wait_s": wait_s,
        }
        return StepReport(metrics=metrics, samples=tuple(trained[: self._num_report_samples]))

    async def _apply(self, trained: Sequence[SampleReport]) -> list[RankReport]:
        async with self.unchanged:
            try:
                reports = await self.workers.on_all(lambda actor: actor.apply.remote(), Work("apply"))
            except NonFiniteError as error:
                error.samples = tuple(trained)
                raise
            self.weight_version += 1
        return reports

    async def _accumulate(self, samples: AsyncIterator[Sample]) -> tuple[list[SampleReport], float]:
        """Has the ranks accumulate the gradient of a batch; returns when all have, so that `apply` finds it whole.

        Returns:
            The samples in ticket order, and the seconds in which the ranks had nothing to do for want of samples.
        """
        started, timer = time.perf_counter(), PhaseTimer()
        max_tokens = self._learner.max_tokens_per_microbatch
        rounds = cut_rounds(self._weighted(self._with_payloads(samples)), self.workers.size, max_tokens, self.packing)
        training = []
        try:
            async with asyncio.TaskGroup() as tasks:  # a round that fails ends the wait for samples, too
                async for samples_of_round in rounds:
                    # Tasks begin in the order in which they are made, and actors keep the order of the driver's calls.
                    training.append(tasks.create_task(self._train(samples_of_round, timer)))
                    del samples_of_round  # handles of payloads, which would live until the next round is complete
        except ExceptionGroup as failures:
            first = failures.exceptions[0]  # the others fell with it
            raise first from first.__cause__
        wait_s = time.perf_counter() - started - timer.take()["round"]
        return [report for task in training for report in task.result()], wait_s

    async def _train(self, samples: Round, timer: PhaseTimer) -> list[SampleReport]:
        microbatches = samples.microbatches(self.packing)
        most_tokens = max(len(microbatch.input_ids) for microbatch in microbatches)
        with timer.phase("round"):
            views = await self.workers.on_each(
                lambda actor, microbatch: actor.accumulate.remote(microbatch, samples.is_last),
                microbatches,
                [Work("accumulate", most_tokens)] * len(microbatches),  # ranks wait for the slowest
            )
        by_index = {
            index: values
            for rank, answer in zip(samples.ranks, views, strict=True)
            for index, values in zip(rank, answer, strict=False)  # a rank left over answers for a filler
        }
        reports = [self._report(part, by_index[index]) for index, part in enumerate(samples.samples)]
        self._check_finite(reports)
        return reports

    async def try_sample(self, sample: Sample) -> SampleReport:
        """What student and teacher make of one sample, by the way of a step that is never taken.

        Nothing can be trained after it: its gradient stays with the ranks.

        Raises:
            NonFiniteError: something of it is NaN or infinite.
        """
        num_tokens = sample.scores.num_tokens
        weighted = WeightedSample(sample, [1.0 / num_tokens] * num_tokens)
        ranks = [[0], *([] for _ in range(self.workers.size - 1))]
        (report,) = await self._train(Round([weighted], ranks, is_last=True), PhaseTimer())
        return report

    def _check_finite(self, reports: Sequence[SampleReport]) -> None:
        """Refuses samples of which a rank says that something is NaN or infinite, before any update."""
        if bad := [report for report in reports if report.views.nonfinite]:
            place = worst_of([report.views.nonfinite for report in bad])
            example_ids = [report.example_id for report in bad]
            error = NonFiniteError(place, self.weight_version + 1, example_ids, remedy_of(place))
            error.samples = tuple(bad)
            raise error

    async def _with_payloads(self, samples: AsyncIterator[Sample]) -> AsyncIterator[Sample]:
        async for sample in samples:
            yield sample if self._with_payload is None else await self._with_payload(sample)
            del sample  # with the handle of its payload

    async def _weighted(self, samples: AsyncIterator[Sample]) -> AsyncIterator[WeightedSample]:
        """Each sample with its token weights, as soon as these are known."""
        if self._loss.normalization is Normalization.TOKEN_MEAN:
            for part in self._weigh([sample async for sample in samples]):
                yield part
        else:
            num_before = 0
            async for sample in samples:
                yield self._weigh([sample], num_before)[0]
                num_before += 1

    def _weigh(self, samples: Sequence[Sample], num_before: int = 0) -> list[WeightedSample]:
        counts = [self._num_counted(sample) for sample in samples]
        mode = self._loss.normalization.name.lower()
        weights = token_weights(counts, mode, self._plan.at(self.weight_version).batch_size)  # type: ignore[arg-type]
        return [
            WeightedSample(
                sample,
                [0.0] * (sample.scores.num_tokens - count) + [weight] * count,
                is_reported=index < self._num_report_samples,
            )
            for index, (sample, count, weight) in enumerate(zip(samples, counts, weights, strict=True), num_before)
        ]

    def _report(self, weighted: WeightedSample, views: TokenViews) -> SampleReport:
        """Without the payload, which would live as long as the report."""
        sample, rollout = weighted.sample, weighted.sample.rollout
        return SampleReport(
            example_id=sample.example_id,
            epoch=sample.epoch,
            weight_version=rollout.weight_version,
            prompt_tokens=rollout.prompt_tokens,
            completion_tokens=rollout.completion_tokens,
            num_counted=sum(weight > 0 for weight in weighted.token_weights),
            views=views,
            copied_share=copied_share(rollout, sample.demonstration_tokens),
            truncated=rollout.truncated,
            pool_hits=sample.pool_hits,
            is_rehearsal=sample.is_rehearsal,
        )

    def _num_counted(self, sample: Sample) -> int:
        """How many tokens, at the completion's end, carry loss; none of one whose answer has not begun."""
        completion_tokens = sample.rollout.completion_tokens
        # Rehearsal keeps all that the initial model writes, which need not hold the text that an answer begins behind.
        answer_start = None if sample.is_rehearsal else self._answer_start
        start = 0 if answer_start is None else answer_start(completion_tokens)
        if start is None or (self._loss.drop_truncated and sample.rollout.truncated):
            return 0
        return max(0, len(completion_tokens) - max(start, self._plan.at(self.weight_version).skip_first_tokens))

    def publishable(self) -> int | None:
        """The version that the ranks hold; None where one of them is lost, as long as none has taken its place."""
        return None if self.workers.loss is not None else self.weight_version

    async def publish(self, kind: WeightKind, version: int) -> Publication:
        """Packs the weights of `kind`; the channel calls it once per kind and version."""
        if version != self.weight_version:
            raise ValueError(f"version {version} was asked for, the learner holds {self.weight_version}")
        publications = await self.workers.on_all(lambda actor: actor.publish.remote(kind), Work("publish"))
        return next(publication for publication in publications if publication is not None)

    async def save_checkpoint(self, data_state: Mapping[str, Any], *, wait: bool) -> None:
        """See `roles.Learner.save_checkpoint`."""
        state = {"data": dict(data_state), "layout": checkpoint.layout(self._learner, self.workers.size)}
        with span("save", weight_version=self.weight_version):
            await self.checkpoints.save(self.weight_version, state, wait=wait)

    async def resume(self, folder: Path) -> None:
        """Restores the checkpoint in `folder`, which may be of another layout.

        Raises:
            CheckpointError: it is of another network or method.
        """
        version = checkpoint.read_state(folder)["weight_version"]
        versions = await self.workers.on_all(lambda actor: actor.load.remote(str(folder), version), LOAD)
        self.workers.confirm_version(dict(enumerate(versions)), version)
        self.weight_version = self.checkpoints.saved_version = version

    async def export(self, folder: Path, *, merged: bool = False) -> None:
        """Writes the student as a Hugging Face folder, without a tokenizer; of an adapter alone, unless `merged`."""
        await self.workers.on_all(lambda actor: actor.export.remote(str(folder), merged), EXPORT)

    async def export_gap(self, folder: Path, rows: Sequence[GuardRow]) -> float:
        """The largest difference of the exported folder's logits from the student's on `rows`, over their range."""
        gaps: list[float] = await self.workers.on_all(
            lambda actor: actor.export_gap.remote(str(folder), rows), READ_EXPORT
        )
        return gaps[0]

    async def logprobs(self, rows: Sequence[GuardRow]) -> list[tuple[float, ...]]:
        """Logprobs [T, nats] of the completion tokens of every row at temperature 1."""
        answers: list[list[tuple[float, ...]]] = await self.workers.on_all(
            lambda actor: actor.logprobs.remote(rows), Work("logprobs", sum(len(row.prompt_tokens) for row in rows))
        )
        return answers[0]
