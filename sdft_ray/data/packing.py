"""Sequences packed end to end for one forward pass, and the samples of a step laid out over ranks and microbatches."""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sdft_ray.records import Microbatch, Sample


class PackedSequences(NamedTuple):
    """Prompts with their completions, end to end. N tokens in all, T of them completion tokens."""

    input_ids: np.ndarray  # [N] int64
    position_ids: np.ndarray  # [N] int64
    predictor_index: np.ndarray  # [T] int64: where completion token t is predicted, one before it
    completion_ids: np.ndarray  # [T] int64
    sequence_ids: np.ndarray  # [T] int64


def pack_sequences(sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> PackedSequences:
    """Packs (prompt, completion) pairs; both must hold at least one token.

    The last completion token predicts nothing that is scored, so it is not fed to the network.
    """
    inputs: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    completions: list[int] = []
    owners: list[int] = []
    start = 0
    for owner, (prompt, completion) in enumerate(sequences):
        if not prompt or not completion:
            raise ValueError(f"sequence {owner}: prompt of {len(prompt)} tokens, completion of {len(completion)}")
        length = len(prompt) + len(completion) - 1
        inputs.extend((*prompt, *completion[:-1]))
        positions.extend(range(length))
        predictors.extend(range(start + len(prompt) - 1, start + length))
        completions.extend(completion)
        owners.extend([owner] * len(completion))
        start += length
    return PackedSequences(
        *(np.asarray(values, dtype=np.int64) for values in (inputs, positions, predictors, completions, owners))
    )


def pack_microbatch(samples: Sequence[Sample], token_weights: Sequence[Sequence[float]]) -> Microbatch:
    """The microbatch of `samples`; `token_weights` holds one weight a completion token of each."""
    rollouts = [sample.rollout for sample in samples]
    packed = pack_sequences([(rollout.prompt_tokens, rollout.completion_tokens) for rollout in rollouts])
    return Microbatch(
        example_ids=tuple(sample.example_id for sample in samples),
        **packed._asdict(),
        token_weights=np.asarray([weight for weights in token_weights for weight in weights], dtype=np.float32),
        sampler_logprobs=np.asarray([lp for rollout in rollouts for lp in rollout.logprobs], dtype=np.float32),
        payloads=tuple(sample.scores.payload for sample in samples),
    )


def plan_microbatches(lengths: Sequence[int], num_ranks: int, max_tokens: int) -> list[list[list[int]]]:
    """Lays samples out over ranks and microbatches, balanced by tokens.

    Every rank gets the same number of microbatches, since the collectives of a sharded learner have to match; a rank
    with fewer samples than that gets empty ones at its end. A sample longer than `max_tokens` stands alone.

    Args:
        lengths: tokens (prompt and completion) of each sample.
        num_ranks: learner ranks; at most as many as samples.
        max_tokens: of one microbatch.

    Returns:
        plan[rank][microbatch] = ascending sample indices.
    """
    if len(lengths) < num_ranks:
        raise ValueError(f"{len(lengths)} samples for {num_ranks} ranks")
    ranks = _balance(range(len(lengths)), lengths, num_ranks)
    layouts = [_fewest_groups(rank, lengths, max_tokens) for rank in ranks]
    num_microbatches = max(len(layout) for layout in layouts)
    plan = [_balance(rank, lengths, min(num_microbatches, len(rank))) for rank in ranks]
    return [groups + [[]] * (num_microbatches - len(groups)) for groups in plan]


def _fewest_groups(indices: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """The fewest balanced groups of which none with more than one sample exceeds `max_tokens`."""
    for num_groups in range(1, len(indices)):
        groups = _balance(indices, lengths, num_groups)
        if all(len(group) == 1 or sum(lengths[index] for index in group) <= max_tokens for group in groups):
            return groups
    return [[index] for index in indices]


def _balance(indices: Sequence[int], lengths: Sequence[int], num_groups: int) -> list[list[int]]:
    """Greedy, longest first: each index joins the group with the fewest tokens; no group stays empty."""
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    heap = [(0, group) for group in range(num_groups)]
    for index in sorted(indices, key=lambda index: -lengths[index]):
        num_tokens, group = heapq.heappop(heap)
        groups[group].append(index)
        heapq.heappush(heap, (num_tokens + lengths[index], group))
    return [sorted(group) for group in groups]
