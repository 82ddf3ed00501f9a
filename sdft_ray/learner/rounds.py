"""A batch cut into rounds of one microbatch on every rank."""

import heapq
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import numpy as np

from sdft_ray.models.packing import Packing, pack_sequences
from sdft_ray.records import Microbatch, Sample


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
