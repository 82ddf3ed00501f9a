"""A mix takes from each source exactly its share of every epoch, and in time every row of it."""

from collections import Counter
from itertools import islice

import pytest

from sdft_ray.data.passes import longest_epoch, whole_counts
from sdft_ray.data.stream import ExampleStream
from sdft_ray.data.tokenized import MixPart, TokenizedRow
from sdft_ray.errors import CheckpointError, ConfigError

MIX = (MixPart("tools", 3.0, 7), MixPart("chat", 1.0, 10))  # an epoch of 9: 7 and 2, rounded from 6.75 and 2.25


def rows(mix: tuple[MixPart, ...]) -> list[TokenizedRow]:
    return [
        TokenizedRow(
            example_id=f"{part.name}:{index}",
            prompt_tokens=(index,),
            teacher_prompt_tokens=(9, index),
            demonstration_tokens=(2,),
        )
        for part in mix
        for index in range(part.num_rows)
    ]


def stream(mix: tuple[MixPart, ...] = MIX, batch_size: int = 3, seed: int = 0, shuffle: bool = True) -> ExampleStream:
    return ExampleStream(rows(mix), batch_size=batch_size, seed=seed, max_new_tokens=4, shuffle=shuffle, mix=mix)


def sources(examples: ExampleStream, number: int) -> list[str]:
    return [example.example_id.partition(":")[0] for example in islice(examples, number)]


@pytest.mark.parametrize(
    ("length", "weights", "counts"),
    [
        (10, (3, 1), [8, 2]),  # 7.5 and 2.5: of equal remainders the first wins
        (10, (1, 1, 1), [4, 3, 3]),
        (7, (0.5, 0.3, 0.2), [4, 2, 1]),  # 3.5, 2.1, 1.4
        (100, (0.7, 0.3), [70, 30]),  # which floating point has at 70.0 and 30.000000000000004
        (2, (5, 1, 1), [2, 0, 0]),
    ],
)
def test_a_length_is_divided_by_largest_remainders(length: int, weights: tuple[float, ...], counts: list[int]) -> None:
    assert whole_counts(length, weights) == counts


def test_an_epoch_is_as_long_as_the_source_that_ends_first_allows() -> None:
    assert longest_epoch([MixPart("a", 3, 300), MixPart("b", 1, 50)]) == 200
    assert longest_epoch([MixPart("a", 3, 30), MixPart("b", 1, 50)]) == 40
    assert longest_epoch([MixPart("a", 0.7, 70), MixPart("b", 0.3, 30)]) == 100


def test_every_epoch_has_the_exact_share_of_each_source() -> None:
    examples = stream()
    assert (examples.examples_per_epoch, examples.steps_per_epoch) == (9, 3)
    for _ in range(5):
        assert Counter(sources(examples, 9)) == {"tools": 7, "chat": 2}
    assert examples.notes == ("data.mix: an epoch has 9 examples: 7 of 7 of tools, 2 of 10 of chat",)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (5.0, 2.0)])
def test_every_part_of_an_epoch_is_within_one_row_of_the_share(weights: tuple[float, float]) -> None:
    examples = stream((MixPart("tools", weights[0], 40), MixPart("chat", weights[1], 40)), batch_size=4)
    drawn = sources(examples, examples.examples_per_epoch)
    share = drawn.count("tools") / len(drawn)
    assert all(abs(drawn[:end].count("tools") - share * end) <= 1 for end in range(1, len(drawn) + 1))


def test_a_source_larger_than_its_share_goes_on_in_the_next_epoch_until_all_of_it_was_seen() -> None:
    drawn = [example.example_id for example in islice(stream(), 5 * 9)]
    chat = [name for name in drawn if name.startswith("chat")]
    assert len(chat) == len(set(chat)) == 10
    assert Counter(name for name in drawn if name.startswith("tools")).most_common()[-1][1] == 5


def test_a_row_that_comes_again_has_another_request_seed() -> None:
    seeds = [(example.example_id, example.seed) for example in islice(stream(), 12 * 9)]
    assert len(set(seeds)) == len(seeds)


def test_order_depends_on_the_seed_and_not_on_a_source_beside_it() -> None:
    def chat(seed: int, *beside: MixPart) -> list[str]:
        examples = stream((MixPart("chat", 1.0, 10), *beside), seed=seed)
        drawn = [example.example_id for example in islice(examples, 60)]
        return [name for name in drawn if name.startswith("chat")][:10]

    assert chat(0, MixPart("tools", 1.0, 20)) == chat(0, MixPart("code", 2.0, 40))
    assert chat(0, MixPart("tools", 1.0, 20)) != chat(1, MixPart("tools", 1.0, 20))


def test_without_shuffling_each_source_keeps_its_order() -> None:
    drawn = [example.example_id for example in islice(stream(shuffle=False), 18)]
    assert [name for name in drawn if name.startswith("chat")] == [f"chat:{index}" for index in range(4)]
    assert [name for name in drawn if name.startswith("tools")] == [f"tools:{index}" for index in range(7)] * 2


@pytest.mark.parametrize("stop", [0, 5, 9, 31])
def test_a_resumed_mix_goes_on_where_it_stopped(stop: int) -> None:
    resumed = stream()
    resumed.load_state(stream().state_at(stop))
    assert list(islice(resumed, 30)) == list(islice(stream(), stop + 30))[stop:]


def test_a_state_of_other_weights_is_refused() -> None:
    other = stream((MixPart("tools", 2.0, 7), MixPart("chat", 1.0, 10)))
    with pytest.raises(CheckpointError, match="mix=.*data.mix and data.rehearsal it was started with"):
        stream().load_state(other.state_at(3))


def test_a_weight_that_brings_no_row_and_an_epoch_without_a_batch_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"data\.mix\.chat\.weight=0\.01: is too small for one row of chat"):
        stream((MixPart("tools", 1.0, 7), MixPart("chat", 0.01, 10)))
    with pytest.raises(ConfigError, match=r"batch_size=12: .* only 9 examples in the proportions of data\.mix.*=9 or"):
        stream(batch_size=12)
