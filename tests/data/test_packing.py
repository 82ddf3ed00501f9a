"""Packing and planning against their definitions, by brute force."""

import random
from collections.abc import Sequence
from itertools import chain, product

import numpy as np
import pytest

from sdft_ray.data.packing import pack_microbatch, pack_sequences, plan_microbatches
from sdft_ray.records import Rollout, Sample, TeacherScores


def sample(example_id: str, prompt: Sequence[int], completion: Sequence[int]) -> Sample:
    rollout = Rollout(
        prompt_tokens=tuple(prompt),
        completion_tokens=tuple(completion),
        logprobs=tuple(-float(token) for token in completion),
        weight_version=0,
        truncated=False,
    )
    scores = TeacherScores(payload=f"payload of {example_id}", num_tokens=len(completion), teacher_version=0)
    return Sample(example_id=example_id, epoch=0, rollout=rollout, scores=scores)


def random_sequences(seed: int) -> list[tuple[list[int], list[int]]]:
    """Sequences in which no token id occurs twice, so that an id says where it is."""
    source, ids = random.Random(seed), iter(range(10_000))
    lengths = [(source.randint(1, 6), source.randint(1, 6)) for _ in range(source.randint(1, 5))]
    return [
        ([next(ids) for _ in range(prompt)], [next(ids) for _ in range(completion)]) for prompt, completion in lengths
    ]


@pytest.mark.parametrize("seed", range(10))
def test_every_completion_token_is_predicted_from_all_and_only_its_own_sequences_tokens(seed: int) -> None:
    sequences = random_sequences(seed)
    packed = pack_sequences(sequences)
    expected = [
        (owner, token, [*prompt, *completion[:place]])
        for owner, (prompt, completion) in enumerate(sequences)
        for place, token in enumerate(completion)
    ]
    seen = []
    for index, token, owner in zip(packed.predictor_index, packed.completion_ids, packed.sequence_ids, strict=True):
        # What attention lets position `index` see: back to where position ids were last 0.
        start = index - packed.position_ids[index]
        seen.append((owner, token, packed.input_ids[start : index + 1].tolist()))
    assert seen == expected


def test_packed_arrays_are_as_written_down_by_hand() -> None:
    packed = pack_sequences([([1, 2, 3], [4, 5]), ([6], [7])])
    assert packed.input_ids.tolist() == [1, 2, 3, 4, 6]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 0]
    assert packed.predictor_index.tolist() == [2, 3, 4]
    assert packed.completion_ids.tolist() == [4, 5, 7]
    assert packed.sequence_ids.tolist() == [0, 0, 1]
    assert all(array.dtype == np.int64 for array in packed)


@pytest.mark.parametrize(("prompt", "completion"), [([], [1]), ([1], [])])
def test_an_empty_prompt_or_completion_is_refused(prompt: list[int], completion: list[int]) -> None:
    with pytest.raises(ValueError, match="sequence 1: prompt of"):
        pack_sequences([([1], [2]), (prompt, completion)])


def test_a_microbatch_keeps_ids_weights_logprobs_and_payloads_beside_their_tokens() -> None:
    batch = pack_microbatch([sample("a", [1, 2], [3, 4]), sample("b", [5], [6])], [[0.5, 0.25], [1.0]])
    assert batch.example_ids == ("a", "b")
    assert batch.completion_ids.tolist() == [3, 4, 6]
    assert batch.token_weights.tolist() == [0.5, 0.25, 1.0]
    assert batch.sampler_logprobs.tolist() == [-3.0, -4.0, -6.0]
    assert batch.payloads == ("payload of a", "payload of b")
    assert batch.token_weights.dtype == batch.sampler_logprobs.dtype == np.float32


def random_lengths(seed: int) -> tuple[list[int], int, int]:
    source = random.Random(seed)
    num_ranks = source.randint(1, 4)
    lengths = [source.randint(1, 100) for _ in range(source.randint(num_ranks, 24))]
    return lengths, num_ranks, source.choice([60, 120, 400])


def tokens(group: Sequence[int], lengths: Sequence[int]) -> int:
    return sum(lengths[index] for index in group)


@pytest.mark.parametrize("seed", range(60))
def test_a_plan_holds_every_sample_once_within_the_limit_and_as_many_microbatches_on_every_rank(
    seed: int,
) -> None:
    lengths, num_ranks, max_tokens = random_lengths(seed)
    plan = plan_microbatches(lengths, num_ranks, max_tokens)
    assert len(plan) == num_ranks
    assert len({len(rank) for rank in plan}) == 1
    groups = list(chain.from_iterable(plan))
    assert sorted(chain.from_iterable(groups)) == list(range(len(lengths)))
    assert all(group == sorted(group) for group in groups)
    assert all(len(group) <= 1 or tokens(group, lengths) <= max_tokens for group in groups)
    assert all(rank[0] for rank in plan)


@pytest.mark.parametrize("seed", range(60))
def test_no_rank_has_more_than_its_share_by_over_the_longest_sample(seed: int) -> None:
    lengths, num_ranks, max_tokens = random_lengths(seed)
    loads = [
        tokens(list(chain.from_iterable(rank)), lengths) for rank in plan_microbatches(lengths, num_ranks, max_tokens)
    ]
    assert max(loads) - min(loads) <= max(lengths)


@pytest.mark.parametrize("seed", range(20))
def test_ranks_are_balanced_within_four_thirds_of_the_best_layout_there_is(seed: int) -> None:
    source = random.Random(seed)
    lengths = [source.randint(1, 50) for _ in range(7)]
    [loads] = [[tokens(rank[0], lengths) for rank in plan_microbatches(lengths, 2, 10_000)]]
    best = min(
        max(sum(lengths[i] for i, rank in enumerate(layout) if rank == side) for side in (0, 1))
        for layout in product((0, 1), repeat=7)
    )
    assert max(loads) <= 4 / 3 * best


def test_a_sample_over_the_limit_stands_alone() -> None:
    [rank] = plan_microbatches([500, 10, 10], num_ranks=1, max_tokens=100)
    assert sorted(rank) == [[0], [1, 2]]


def test_a_rank_with_fewer_samples_than_microbatches_gets_empty_ones_at_its_end() -> None:
    plan = plan_microbatches([90, 30, 30, 30], num_ranks=2, max_tokens=50)
    assert sorted(plan, key=len) == [[[0], [], []], [[1], [2], [3]]]


def test_fewer_samples_than_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="1 samples for 2 ranks"):
        plan_microbatches([5], num_ranks=2, max_tokens=10)
