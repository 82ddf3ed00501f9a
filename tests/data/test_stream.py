"""The stream is endless, seeded, shuffled, the same on any machine, and resumed exactly where it stopped."""

import json
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from sdft_ray.data.rehearsal import Rehearsal
from sdft_ray.data.stream import ExampleStream
from sdft_ray.data.tokenized import TokenizedRow, TokenizedRows
from sdft_ray.errors import CheckpointError, ConfigError

ORDER_OF_EPOCH_0 = ["e5", "e3", "e1", "e0", "e4", "e2"]
ORDER_OF_EPOCH_1 = ["e5", "e0", "e3", "e1", "e2", "e4"]
FINGERPRINT = "75bdc4d87bfff409"
FIRST_SEED = 2151504491148270970


def rows(number: int) -> list[TokenizedRow]:
    return [
        TokenizedRow(
            example_id=f"e{index}",
            prompt_tokens=(index,),
            teacher_prompt_tokens=(9, index),
            demonstration_tokens=(2,),
        )
        for index in range(number)
    ]


def stream(number: int = 10, batch_size: int = 3, seed: int = 0, shuffle: bool = True) -> ExampleStream:
    return ExampleStream(rows(number), batch_size=batch_size, seed=seed, max_new_tokens=4, shuffle=shuffle)


def rehearsing(num_prompts: int = 5, per_batch: int = 2, batch_size: int = 6, seed: int = 0) -> ExampleStream:
    prompts = [replace(row, example_id=f"r{index}") for index, row in enumerate(rows(num_prompts))]
    rehearsal = Rehearsal(source="old", rows=TokenizedRows.of(prompts), per_batch=per_batch, max_new_tokens=7, notes=())
    return ExampleStream(rows(10), batch_size=batch_size, seed=seed, max_new_tokens=4, rehearsal=rehearsal)


def test_an_epoch_draws_every_example_at_most_once_and_drops_the_partial_batch() -> None:
    source = stream(number=10, batch_size=3)
    assert (source.examples_per_epoch, source.steps_per_epoch) == (9, 3)
    for epoch in range(3):
        drawn = list(islice(source, 9))
        assert {one.epoch for one in drawn} == {epoch}
        assert max(Counter(one.example_id for one in drawn).values()) == 1


def test_every_example_is_drawn_sooner_or_later() -> None:
    assert len({one.example_id for one in islice(stream(), 90)}) == 10


def test_the_papers_data_make_the_papers_number_of_steps() -> None:
    assert stream(number=4046, batch_size=32).steps_per_epoch == 126
    assert stream(number=2674, batch_size=32).steps_per_epoch == 83


def test_order_and_seeds_are_these_on_any_machine() -> None:
    drawn = list(islice(stream(number=6, batch_size=3, seed=7), 12))
    assert [one.example_id for one in drawn[:6]] == ORDER_OF_EPOCH_0
    assert [one.example_id for one in drawn[6:]] == ORDER_OF_EPOCH_1
    assert drawn[0].seed == FIRST_SEED


def test_another_seed_gives_another_order() -> None:
    first, second = ([one.example_id for one in islice(stream(seed=seed), 9)] for seed in (0, 1))
    assert first != second


def test_without_shuffling_the_order_is_the_datas() -> None:
    drawn = [one.example_id for one in islice(stream(number=4, batch_size=2, shuffle=False), 8)]
    assert drawn == ["e0", "e1", "e2", "e3"] * 2


def test_a_request_seed_depends_on_run_example_and_epoch_and_on_nothing_else() -> None:
    seeds = {(one.example_id, one.epoch): one.seed for one in islice(stream(), 18)}
    assert len(set(seeds.values())) == 18
    assert all(0 <= seed < 2**63 for seed in seeds.values())
    plain = {(one.example_id, one.epoch): one.seed for one in islice(stream(shuffle=False), 18)}
    assert all(seeds[key] == plain[key] for key in seeds.keys() & plain.keys())
    other = {(one.example_id, one.epoch): one.seed for one in islice(stream(seed=1), 18)}
    assert all(seeds[key] != other[key] for key in seeds.keys() & other.keys())


@pytest.mark.parametrize("stop", [0, 4, 9, 10, 23])
def test_a_resumed_stream_goes_on_where_it_stopped(stop: int) -> None:
    source = stream()
    state = json.loads(json.dumps(source.state_at(stop)))
    expected = list(islice(source, 40))[stop:]
    resumed = stream()
    resumed.load_state(state)
    assert resumed.position == stop
    assert list(islice(resumed, 40 - stop)) == expected
    assert resumed.position == 40


@pytest.mark.parametrize(
    ("other", "key"),
    [
        ({"number": 11}, "rows"),
        ({"seed": 1}, "seed"),
        ({"batch_size": 2}, "batch_size"),
        ({"shuffle": False}, "shuffle"),
    ],
)
def test_a_state_of_another_run_is_refused(other: dict[str, int], key: str) -> None:
    with pytest.raises(CheckpointError, match=f"{key}=.*resume=never"):
        stream().load_state(stream(**other).state_at(3))  # type: ignore[arg-type]


def test_the_fingerprint_of_the_rows_is_this_on_any_machine_and_of_every_token() -> None:
    assert stream(number=6).state_at(0)["rows"] == FINGERPRINT
    other = rows(6)
    other[3] = replace(other[3], demonstration_tokens=(3,))
    moved = rows(6)
    moved[0], moved[1] = (
        replace(moved[0], prompt_tokens=(), teacher_prompt_tokens=(0, 9, 0)),
        replace(moved[1], teacher_prompt_tokens=(1,)),
    )
    for changed in (other, moved, rows(6)[::-1]):
        state = ExampleStream(changed, batch_size=3, seed=0, max_new_tokens=4).state_at(0)
        assert state["rows"] != FINGERPRINT


def test_a_state_of_an_earlier_release_is_refused_by_what_it_is() -> None:
    state = {"num_examples": 3, "examples": "0123456789abcdef", "seed": 0, "batch_size": 3, "shuffle": True}
    with pytest.raises(CheckpointError, match="of an earlier release.*resume=never and model.path"):
        stream().load_state(state)


@pytest.mark.parametrize("position", [None, -1, "3"])
def test_a_state_without_a_position_is_refused(position: object) -> None:
    with pytest.raises(CheckpointError, match="num_examples="):
        stream().load_state(stream().state_at(3) | {"num_examples": position})


@pytest.mark.parametrize("number", [0, 2])
def test_data_that_fill_no_batch_are_refused(number: int) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"batch_size=3: .* only {number} examples.*; set batch_size={number or 1} or smaller, or add data",
    ):
        stream(number=number)


def test_the_first_examples_are_told_from_any_place() -> None:
    examples = stream()
    first = list(islice(stream(), 4))
    next(examples)
    assert examples.first(4) == first
    assert examples.position == 1


def test_every_batch_has_its_rehearsal_rows_from_the_second_place_on() -> None:
    examples = rehearsing()
    assert (examples.steps_per_epoch, examples.examples_per_epoch) == (2, 12), "ten examples, four of them a batch"
    for _ in range(5):
        batch = list(islice(examples, 6))
        assert [one.is_rehearsal for one in batch] == [False, True, False, True, False, False]
        assert [one.max_new_tokens for one in batch] == [4, 7, 4, 7, 4, 4]


@pytest.mark.parametrize(("batch_size", "per_batch"), [(2, 1), (8, 2), (8, 7), (16, 4), (33, 11)])
def test_the_places_of_rehearsal_are_as_many_as_asked_for(batch_size: int, per_batch: int) -> None:
    examples = ExampleStream(
        rows(64),
        batch_size=batch_size,
        seed=0,
        max_new_tokens=4,
        rehearsal=Rehearsal(
            source="old", rows=TokenizedRows.of(rows(3)), per_batch=per_batch, max_new_tokens=4, notes=()
        ),
    )
    kinds = [one.is_rehearsal for one in islice(examples, batch_size)]
    assert kinds.count(True) == per_batch and not kinds[0] and kinds[1]


def test_examples_come_in_the_same_order_with_and_without_rehearsal() -> None:
    with_rehearsal = [one for one in islice(rehearsing(), 12) if not one.is_rehearsal]
    assert with_rehearsal == list(islice(stream(batch_size=4), 8))


def test_rehearsal_goes_through_all_of_its_prompts_before_any_comes_again() -> None:
    drawn = [one for one in islice(rehearsing(), 60) if one.is_rehearsal]
    assert Counter(one.example_id for one in drawn) == dict.fromkeys([f"r{index}" for index in range(5)], 4)
    assert [one.epoch for one in drawn] == [index // 5 for index in range(20)]
    assert len({one.seed for one in drawn}) == 20
    assert [one.example_id for one in drawn[:5]] != [one.example_id for one in drawn[5:10]]


@pytest.mark.parametrize("stop", [0, 6, 18, 25])
def test_a_resumed_stream_rehearses_on_where_it_stopped(stop: int) -> None:
    state = json.loads(json.dumps(rehearsing().state_at(stop)))
    resumed = rehearsing()
    resumed.load_state(state)
    assert list(islice(resumed, 40)) == list(islice(rehearsing(), stop + 40))[stop:]


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (rehearsing(num_prompts=6), "rehearsal"),
        (rehearsing(per_batch=3), "rehearsal_per_batch"),
        (stream(batch_size=6), "rehearsal"),
    ],
)
def test_a_state_of_another_rehearsal_is_refused(other: ExampleStream, key: str) -> None:
    with pytest.raises(CheckpointError, match=f"has {key}=.*data.rehearsal it was started with"):
        rehearsing().load_state(other.state_at(6))


def test_data_that_fill_no_batch_beside_rehearsal_are_told_the_batch_that_works() -> None:
    with pytest.raises(ConfigError, match="batch_size=14: .* only 10 examples.*set batch_size=12 or smaller"):
        rehearsing(batch_size=14)
