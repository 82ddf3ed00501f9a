"""What a step trains on: its stage and learning rate, its rounds of microbatches, and what a counted token weighs.

Stage and rate are functions of the step alone, so resuming needs no state. Plain Python and NumPy: the driver computes
all of it.

Legend: B sequences of the GLOBAL batch (all ranks, all accumulation steps); n_i counted tokens of sequence i. Each
microbatch SUMS weight times term, and the sum over microbatches and ranks is the gradient of one big batch, whatever
the cut (docs/method.md).
"""

import heapq
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from sdft_ray.config import LearnerConfig, Schedule
from sdft_ray.models.packing import Packing, pack_sequences
from sdft_ray.records import Microbatch, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerStage:
    """What one stage asks of the learner."""

    num_steps: int
    batch_size: int
    skip_first_tokens: int
    learner: LearnerConfig  # its learning rate, schedule and warm-up are the stage's own


class StagePlan:
    """The stages of a run, one after the other; most runs have one."""

    def __init__(self, stages: Sequence[LearnerStage]):
        self._stages = tuple(stages)

    @property
    def num_steps(self) -> int:
        """Of all stages together."""
        return sum(stage.num_steps for stage in self._stages)

    def at(self, version: int) -> LearnerStage:
        """The stage of the step that weights of `version` take."""
        return self._locate(version)[0]

    def learning_rate(self, version: int) -> float:
        """The rate of the step that weights of `version` take: each stage has a schedule of its own."""
        stage, step = self._locate(version)
        return learning_rate(stage.learner, step, stage.num_steps)

    def is_boundary(self, version: int) -> bool:
        """True when one stage ends with `version` and another begins."""
        return 0 < version < self.num_steps and self._locate(version)[1] == 0

    def _locate(self, version: int) -> tuple[LearnerStage, int]:
        step = version
        for stage in self._stages:
            if step < stage.num_steps:
                return stage, step
            step -= stage.num_steps
        return self._stages[-1], self._stages[-1].num_steps + step


def learning_rate(cfg: LearnerConfig, step: int, num_steps: int) -> float:
    """The rate of step `step` (from 0) of `num_steps`: a function of the step alone, so resuming needs no state.

    Linear warm-up reaches the full rate with step `warmup_steps`; COSINE then falls to 0 after the last step.
    """
    if step < cfg.warmup_steps:
        return cfg.learning_rate * (step + 1) / (cfg.warmup_steps + 1)
    if cfg.schedule is Schedule.CONSTANT:
        return cfg.learning_rate
    progress = (step - cfg.warmup_steps) / max(1, num_steps - cfg.warmup_steps)
    return cfg.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def token_weights(
    num_counted_tokens: Sequence[int], mode: Literal["sequence_mean", "token_mean"], batch_size: int
) -> list[float]:
    """The weight that each counted token of each of some sequences carries.

    Args:
        num_counted_tokens: n_i of sequences of the global batch, each >= 0: of any of them in "sequence_mean", whose
            weights are known sequence by sequence; of all B in "token_mean".
        mode: "sequence_mean" gives 1 / (B n_i), the mean over sequences of the mean over counted tokens (the
            authors' code); B includes the sequences without a counted token. "token_mean" gives 1 / sum_i
            n_i, every token alike, so that long completions weigh more.
        batch_size: B.

    Returns:
        Weights in [0, 1], one a sequence; 0.0 for a sequence without a counted token. Over the batch the counted
        tokens' weights add up to 1 in "token_mean", and to the share of sequences with a counted token in
        "sequence_mean".

    Raises:
        ValueError: a count is negative, the mode is unknown, or "token_mean" lacks a sequence.
    """
    negative = [count for count in num_counted_tokens if count < 0]
    if negative:
        raise ValueError(f"num_counted_tokens holds {negative[0]}: a count of tokens is at least 0")
    match mode:
        case "sequence_mean":
            return [1.0 / (batch_size * count) if count else 0.0 for count in num_counted_tokens]
        case "token_mean":
            if len(num_counted_tokens) != batch_size:
                raise ValueError(f"token_mean needs all {batch_size} sequences, not {len(num_counted_tokens)} of them")
            total = sum(num_counted_tokens)
            return [1.0 / total if count else 0.0 for count in num_counted_tokens]
        case _:
            raise ValueError(f"mode={mode!r} is unknown: choose 'sequence_mean' or 'token_mean'")


def pack_microbatch(
    samples: Sequence[Sample],
    token_weights: Sequence[Sequence[float]],
    *,
    packing: Packing = Packing.END_TO_END,
    reported: Sequence[int] = (),
) -> Microbatch:
    """The microbatch of `samples`; `token_weights` holds one weight a completion token of each."""
    rollouts = [sample.rollout for sample in samples]
    pairs = [(rollout.prompt_tokens, rollout.completion_tokens) for rollout in rollouts]
    packed = pack_sequences(pairs, share_prefix=packing is Packing.SHARED_PREFIX)
    return Microbatch(
        example_ids=tuple(sample.example_id for sample in samples),
        **packed._asdict(),
        token_weights=np.asarray([weight for weights in token_weights for weight in weights], dtype=np.float32),
        sampler_logprobs=np.asarray([lp for rollout in rollouts for lp in rollout.logprobs], dtype=np.float32),
        payloads=tuple(sample.scores.payload for sample in samples),
        teacher_versions=tuple(sample.scores.teacher_version for sample in samples),
        reported=tuple(reported),
    )


class WeightedSample(NamedTuple):
    """A sample and what each of its completion tokens weighs in the loss."""

    sample: Sample
    token_weights: list[float]  # [T]
    is_reported: bool = False  # a person will see its tokens


class Round(NamedTuple):
    """Consecutive samples of a batch, laid out for one forward pass on every rank."""

    samples: list[WeightedSample]
    ranks: list[list[int]]  # what each rank trains on, as ascending indices into `samples`; [] for a rank left over
    is_last: bool  # of its batch

    def microbatches(self, packing: Packing) -> list[Microbatch]:
        """One a rank. A rank left over repeats a sample at weight 0, since the collectives of all ranks must match."""
        first = self.samples[0]
        filler = WeightedSample(first.sample, [0.0] * len(first.token_weights))
        shards = [[self.samples[index] for index in rank] or [filler] for rank in self.ranks]
        return [
            pack_microbatch(
                [part.sample for part in shard],
                [part.token_weights for part in shard],
                packing=packing,
                reported=[index for index, part in enumerate(shard) if part.is_reported],
            )
            for shard in shards
        ]


async def cut_rounds(
    samples: AsyncIterator[WeightedSample], num_ranks: int, max_tokens: int, packing: Packing = Packing.END_TO_END
) -> AsyncIterator[Round]:
    """Cuts a batch into rounds and yields each once the sample after it has come, the last one at the batch's end.

    A round takes samples in their order as long as no rank has to read more than `max_tokens` tokens (prompt and
    completion) at once; a sample longer than that stands alone. So the cut depends on lengths and order and never on
    when a sample comes, and only the last round of a batch can hold fewer samples than there are ranks. With
    Packing.SINGLE every rank has one sample a round.
    """
    if packing is Packing.SINGLE:
        max_tokens = 0  # no two samples fit
    taken: list[WeightedSample] = []
    async for sample in samples:
        if not _fit([*taken, sample], num_ranks, max_tokens):
            yield Round(taken, _balance(_lengths(taken), num_ranks), is_last=False)
            taken = []
        taken.append(sample)
    if taken:
        yield Round(taken, _balance(_lengths(taken), num_ranks), is_last=True)


def _lengths(samples: Sequence[WeightedSample]) -> list[int]:
    rollouts = [weighted.sample.rollout for weighted in samples]
    return [len(rollout.prompt_tokens) + len(rollout.completion_tokens) for rollout in rollouts]


def _fit(samples: Sequence[WeightedSample], num_ranks: int, max_tokens: int) -> bool:
    lengths = _lengths(samples)
    ranks = _balance(lengths, num_ranks)
    return all(len(rank) <= 1 or sum(lengths[index] for index in rank) <= max_tokens for rank in ranks)


def _balance(lengths: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Greedy, longest first: each sample joins the rank with the fewest tokens."""
    ranks: list[list[int]] = [[] for _ in range(num_ranks)]
    heap = [(0, rank) for rank in range(num_ranks)]
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        num_tokens, rank = heapq.heappop(heap)
        ranks[rank].append(index)
        heapq.heappush(heap, (num_tokens + lengths[index], rank))
    return [sorted(rank) for rank in ranks]
