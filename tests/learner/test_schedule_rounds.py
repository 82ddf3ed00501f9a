"""The cut into rounds against its definition, by brute force."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from sdft_ray.learner.schedule import Round, WeightedSample, cut_rounds, pack_microbatch
from sdft_ray.models.packing import Packing
from sdft_ray.records import Rollout, Sample, TeacherScores


def sample(example_id: str, prompt: Sequence[int], completion: Sequence[int]) -> Sample:
    rollout = Rollout(
        prompt_tokens=tuple(prompt),
        completion_tokens=tuple(completion),
        logprobs=tuple(-float(token) for token in completion),
        weight_version=0,
        truncated=False,
        num_sampled=len(completion),
    )
    scores = TeacherScores(payload=f"payload of {example_id}", num_tokens=len(completion), teacher_version=0)
    return Sample(example_id=example_id, epoch=0, rollout=rollout, scores=scores)


def test_a_microbatch_keeps_ids_weights_logprobs_and_payloads_beside_their_tokens() -> None:
    batch = pack_microbatch([sample("a", [1, 2], [3, 4]), sample("b", [5], [6])], [[0.5, 0.25], [1.0]])
    assert batch.example_ids == ("a", "b")
    assert batch.completion_ids.tolist() == [3, 4, 6]
    assert batch.token_weights.tolist() == [0.5, 0.25, 1.0]
    assert batch.sampler_logprobs.tolist() == [-3.0, -4.0, -6.0]
    assert batch.payloads == ("payload of a", "payload of b")
    assert batch.token_weights.dtype == batch.sampler_logprobs.dtype == np.float32


def in_rounds(
    lengths: Sequence[int],
    num_ranks: int,
    max_tokens: int,
    pauses: Iterator[float] | None = None,
    packing: Packing = Packing.END_TO_END,
) -> Any:
    """The rounds of a batch whose samples hold a prompt token and the rest as completion."""

    async def samples() -> AsyncIterator[WeightedSample]:
        for index, length in enumerate(lengths):
            if pauses is not None:
                await asyncio.sleep(next(pauses))
            yield WeightedSample(sample(str(index), [1], [2] * (length - 1)), [0.5] * (length - 1))

    async def cut() -> list[Round]:
        return [part async for part in cut_rounds(samples(), num_ranks, max_tokens, packing)]

    return asyncio.run(cut())


def layout(rounds: Sequence[Round]) -> list[list[list[str]]]:
    """Example ids by round and rank."""
    return [[[part.samples[index].sample.example_id for index in rank] for rank in part.ranks] for part in rounds]


def tokens(rank: Sequence[str], lengths: Sequence[int]) -> int:
    return sum(lengths[int(example_id)] for example_id in rank)


def random_lengths(seed: int) -> tuple[list[int], int, int]:
    source = random.Random(seed)
    num_ranks = source.randint(1, 4)
    lengths = [source.randint(2, 100) for _ in range(source.randint(num_ranks, 24))]
    return lengths, num_ranks, source.choice([60, 120, 400])


@pytest.mark.parametrize("seed", range(60))
def test_rounds_hold_every_sample_once_in_order_within_the_limit_of_every_rank(seed: int) -> None:
    lengths, num_ranks, max_tokens = random_lengths(seed)
    rounds = in_rounds(lengths, num_ranks, max_tokens)
    assert [int(part.sample.example_id) for whole in rounds for part in whole.samples] == list(range(len(lengths)))
    assert [whole.is_last for whole in rounds] == [False] * (len(rounds) - 1) + [True]
    for whole, ranks in zip(rounds, layout(rounds), strict=True):
        assert len(ranks) == num_ranks
        assert sorted(index for rank in whole.ranks for index in rank) == list(range(len(whole.samples)))
        assert all(rank == sorted(rank) for rank in whole.ranks)
        assert all(len(rank) <= 1 or tokens(rank, lengths) <= max_tokens for rank in ranks)


@pytest.mark.parametrize("seed", range(60))
def test_only_the_last_round_can_leave_a_rank_without_a_sample(seed: int) -> None:
    for whole in in_rounds(*random_lengths(seed))[:-1]:
        assert all(whole.ranks)


@pytest.mark.parametrize("seed", range(60))
def test_no_rank_of_a_round_has_more_than_another_by_over_the_longest_sample(seed: int) -> None:
    lengths, num_ranks, max_tokens = random_lengths(seed)
    for ranks in layout(in_rounds(lengths, num_ranks, max_tokens)):
        loads = [tokens(rank, lengths) for rank in ranks]
        assert max(loads) - min(loads) <= max(lengths)


@pytest.mark.parametrize("seed", range(20))
def test_ranks_are_balanced_within_four_thirds_of_the_best_layout_there_is(seed: int) -> None:
    source = random.Random(seed)
    lengths = [source.randint(2, 50) for _ in range(7)]
    [ranks] = layout(in_rounds(lengths, 2, 10_000))
    best = min(
        max(sum(lengths[i] for i, rank in enumerate(sides) if rank == side) for side in (0, 1))
        for sides in product((0, 1), repeat=7)
    )
    assert max(tokens(rank, lengths) for rank in ranks) <= 4 / 3 * best


@pytest.mark.parametrize("seed", range(5))
def test_the_cut_does_not_depend_on_when_samples_come(seed: int) -> None:
    source = random.Random(seed)
    pauses = (source.choice([0, 0.001, 0.003]) for _ in iter(int, 1))
    assert layout(in_rounds(*random_lengths(seed), pauses)) == layout(in_rounds(*random_lengths(seed)))


def test_a_round_is_closed_by_the_first_sample_that_fits_no_more() -> None:
    assert layout(in_rounds([40, 60, 2, 50, 49], num_ranks=1, max_tokens=100)) == [[["0", "1"]], [["2", "3"]], [["4"]]]
    assert layout(in_rounds([40, 60, 60, 40, 2], num_ranks=2, max_tokens=100)) == [
        [["0", "1"], ["2", "3"]],
        [["4"], []],
    ]


def test_a_sample_over_the_limit_stands_alone_and_the_other_ranks_of_its_round_are_filled() -> None:
    assert layout(in_rounds([500, 10, 10], num_ranks=1, max_tokens=100)) == [[["0"]], [["1", "2"]]]
    assert layout(in_rounds([500, 10, 10], num_ranks=2, max_tokens=100)) == [[["0"], ["1", "2"]]]
    assert layout(in_rounds([500, 600, 10], num_ranks=2, max_tokens=100)) == [[["1"], ["0"]], [["2"], []]]


def test_a_rank_left_over_reads_a_sample_that_weighs_nothing() -> None:
    [whole] = in_rounds([5], num_ranks=2, max_tokens=100)
    trained, filler = whole.microbatches(Packing.END_TO_END)
    assert trained.example_ids == filler.example_ids == ("0",)
    assert trained.token_weights.tolist() == [0.5] * 4
    assert filler.token_weights.tolist() == [0.0] * 4


def test_a_network_that_computes_single_sequences_has_one_sample_a_rank_and_round() -> None:
    assert layout(in_rounds([5, 9, 7], num_ranks=2, max_tokens=100, packing=Packing.SINGLE)) == [
        [["1"], ["0"]],
        [["2"], []],
    ]
