"""Packed sequences against their definition."""

import random

import numpy as np
import pytest

from sdft_ray.models.packing import pack_sequences


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


def test_a_common_prefix_stands_once_and_a_prompt_keeps_its_last_token() -> None:
    packed = pack_sequences([([7, 8, 1], [2]), ([7, 8], [3, 4]), ([7, 8, 9, 1], [5])], share_prefix=True)
    assert packed.input_ids.tolist() == [7, 8, 1, 8, 3, 8, 9, 1], "the second prompt ends where the others go on"
    assert packed.position_ids.tolist() == [0, 1, 2, 1, 2, 1, 2, 3]
    assert packed.predictor_index.tolist() == [2, 3, 4, 7]
    assert packed.completion_ids.tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("prompts", [[[1, 2, 3]], [[1, 2], [3, 2]], [[1], [1]]])
def test_without_a_common_prefix_nothing_changes(prompts: list[list[int]]) -> None:
    pairs = [(prompt, [4, 5]) for prompt in prompts]
    alone, shared = (pack_sequences(pairs, share_prefix=share) for share in (False, True))
    assert all((one == other).all() for one, other in zip(alone, shared, strict=True))
