"""The learner group as the loop sees it: one student, however many ranks hold it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdft_ray.config import LearnerConfig, LossConfig
from sdft_ray.data.packing import pack_microbatch, plan_microbatches
from sdft_ray.distill.normalization import token_weights
from sdft_ray.errors import CheckpointError
from sdft_ray.learner import checkpoint
from sdft_ray.learner.metrics import step_metrics
from sdft_ray.learner.optimizer import learning_rate
from sdft_ray.records import Microbatch, Publication, Sample, SampleReport, StepReport
from sdft_ray.weights.channel import WeightKind
from sdft_ray.workers import WorkerGroup


class LearnerGroup:
    """Implements `roles.Learner` on DeepSpeed ranks."""

    def __init__(
        self,
        workers: WorkerGroup,
        *,
        learner: LearnerConfig,
        loss: LossConfig,
        sampled: bool,
        num_steps: int,
        num_report_samples: int,
        checkpoints: Path,
        keep_checkpoints: int,
    ):
        self.workers = workers
        self.weight_version = 0
        self._learner = learner
        self._loss = loss
        self._sampled = sampled
        self._num_steps = num_steps
        self._num_report_samples = num_report_samples
        self._checkpoints = checkpoints
        self._keep = keep_checkpoints

    async def start(self) -> None:
        """Returns when every rank has loaded the model and joined the others."""
        address, port = await self.workers.actors[0].rendezvous.remote()
        await self.workers.on_all(lambda actor: actor.start.remote(address, port))

    async def step(self, batch: tuple[Sample, ...]) -> StepReport:
        """See `roles.Learner.step`."""
        weights = self._weights_by_token(batch)
        lengths = [len(sample.rollout.prompt_tokens) + len(sample.rollout.completion_tokens) for sample in batch]
        plan = plan_microbatches(lengths, len(self.workers.actors), self._learner.max_tokens_per_microbatch)
        shards = [self._shard(groups, batch, weights) for groups in plan]
        rate = learning_rate(self._learner, self.weight_version, self._num_steps)
        reports = await self.workers.on_each(lambda actor, shard: actor.step.remote(shard), shards)
        self.weight_version += 1
        divergence = {
            index: values
            for groups, report in zip(plan, reports, strict=True)
            for index, values in zip(_trained(groups), report.token_divergence, strict=False)
        }
        return StepReport(
            metrics=step_metrics(batch, reports, weights, sampled=self._sampled) | {"learner/learning_rate": rate},
            samples=tuple(
                _sample_report(batch[index], divergence[index])
                for index in range(min(self._num_report_samples, len(batch)))
            ),
        )

    async def publish(self, kind: WeightKind, version: int) -> Publication:
        """Packs the weights of `kind`; the channel calls it once per kind and version."""
        if version != self.weight_version:
            raise ValueError(f"version {version} was asked for, the learner holds {self.weight_version}")
        publications = await self.workers.on_all(lambda actor: actor.publish.remote(kind))
        return next(publication for publication in publications if publication is not None)

    async def save_checkpoint(self, data_state: Mapping[str, Any]) -> None:
        """See `roles.Learner.save_checkpoint`."""
        folder = checkpoint.partial_folder(self._checkpoints, self.weight_version)
        await self.workers.on_all(lambda actor: actor.save.remote(str(folder)))
        state = {"weight_version": self.weight_version, "data": dict(data_state), "layout": self._layout()}
        checkpoint.complete(folder, state, self._keep)

    async def resume(self, folder: Path) -> dict[str, Any]:
        """Restores the checkpoint in `folder`; returns the state of the example stream.

        Raises:
            CheckpointError: it is incomplete, or was saved with another layout of ranks.
        """
        state = checkpoint.read_state(folder)
        if state["layout"] != self._layout():
            raise CheckpointError(
                f"resume={folder}: saved with {state['layout']}, this run has {self._layout()}; use the same "
                "cluster.learner.num_workers, learner.zero_stage and learner.precision."
            )
        version = state["weight_version"]
        if version > self._num_steps:
            raise CheckpointError(
                f"resume={folder}: it was saved after step {version}, but the run ends at num_steps={self._num_steps}; "
                "raise num_steps, or resume an earlier checkpoint."
            )
        checkpoint.abandon_later(folder)
        versions = await self.workers.on_all(lambda actor: actor.load.remote(str(folder), version))
        self.workers.confirm_version(versions, version)
        self.weight_version = version
        data_state: dict[str, Any] = state["data"]
        return data_state

    async def export(self, folder: Path) -> None:
        """Writes the student as a Hugging Face folder (without a tokenizer)."""
        await self.workers.on_all(lambda actor: actor.export.remote(str(folder)))

    def _layout(self) -> dict[str, Any]:
        return {
            "num_ranks": len(self.workers.actors),
            "zero_stage": self._learner.zero_stage,
            "precision": self._learner.precision.name,
        }

    def _weights_by_token(self, batch: Sequence[Sample]) -> list[list[float]]:
        """Mask and normalisation over the global batch: one weight a completion token of each sample."""
        skip = self._loss.skip_first_tokens
        counts = [
            0 if self._loss.drop_truncated and rollout.truncated else max(0, len(rollout.completion_tokens) - skip)
            for rollout in (sample.rollout for sample in batch)
        ]
        weights = token_weights(counts, self._loss.normalization.name.lower())  # type: ignore[arg-type]
        return [
            [0.0] * (len(sample.rollout.completion_tokens) - count) + [weight] * count
            for sample, count, weight in zip(batch, counts, weights, strict=True)
        ]

    @staticmethod
    def _shard(
        groups: list[list[int]], batch: Sequence[Sample], weights: Sequence[Sequence[float]]
    ) -> list[Microbatch]:
        """The microbatches of one rank; an empty one repeats a sample at weight 0, so that collectives match."""
        filler = groups[0][0]
        return [
            pack_microbatch([batch[index] for index in group], [weights[index] for index in group])
            if group
            else pack_microbatch([batch[filler]], [[0.0] * len(weights[filler])])
            for group in groups
        ]


def _trained(groups: list[list[int]]) -> list[int]:
    """Sample indices in the order in which a rank reports them, fillers (which come last) left out."""
    return [index for group in groups for index in group]


def _sample_report(sample: Sample, divergence: Any) -> SampleReport:
    return SampleReport(
        example_id=sample.example_id,
        epoch=sample.epoch,
        weight_version=sample.rollout.weight_version,
        prompt_tokens=sample.rollout.prompt_tokens,
        completion_tokens=sample.rollout.completion_tokens,
        divergence=tuple(divergence.tolist()),
        truncated=sample.rollout.truncated,
    )
