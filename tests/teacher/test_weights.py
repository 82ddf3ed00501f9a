from dataclasses import replace

import pytest
import torch

from sdft_ray.errors import ModelError, WeightVersionError
from sdft_ray.teacher.weights import average_weights, copy_weights, map_weights
from sdft_ray.weights.fragments import Fragment, TeacherAverage, blend
from sdft_ray.weights.shared_memory import map_memory
from tests.weights.publications import publish

SHAPES = {"embedding": (40, 5), "norm": (5,), "scale": ()}


def make_parameters(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def test_copied_weights_are_those_of_the_publication_in_the_same_memory() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        held, published = make_parameters(0, dtype), make_parameters(1, dtype)
        places = [tensor.data_ptr() for tensor in held.values()]
        copy_weights(held, publish(7, published))
        assert all(torch.equal(held[name], published[name]) for name in SHAPES)
        assert [tensor.data_ptr() for tensor in held.values()] == places


def test_mapped_weights_are_the_publication_s_own_memory() -> None:
    held, published = make_parameters(0), make_parameters(1)
    publication = publish(7, published)
    map_weights(held, publication)
    assert all(torch.equal(held[name], published[name]) for name in SHAPES)
    for bucket in publication.buckets:
        map_memory(bucket.array, bucket.dtype, writable=True)[:] = 0.5
    assert all((tensor == 0.5).all() for tensor in held.values())


def test_a_publication_of_other_parameters_is_refused_by_name_and_changes_nothing() -> None:
    held = make_parameters(0)
    for wrong, message in (
        ({"norm": torch.ones(6)}, r"norm: the teacher's shape is \(5,\), that of the publication 1 is \(6,\)"),
        ({"bias": torch.ones(2)}, r"bias: the teacher's shape is None"),
    ):
        publication = publish(1, make_parameters(1) | wrong)
        with pytest.raises(ModelError, match=message):
            copy_weights(held, publication)
        with pytest.raises(ModelError, match=message):
            map_weights(held, publication)
        with pytest.raises(ModelError, match=message):
            average_weights(held, 0, publication, 0.9)
    del held["scale"]
    with pytest.raises(ModelError, match="scale: the teacher's shape is None"):
        copy_weights(held, publish(1, make_parameters(1)))
    assert all(torch.equal(held[name], make_parameters(0)[name]) for name in held)


def test_the_average_of_the_receiver_is_that_of_the_learner_after_50_steps() -> None:
    """The learner averages flat fragments of two ranks, the receiver whole parameters."""
    student, receiver = make_parameters(0), make_parameters(0)

    def fragments(rank: int) -> list[Fragment]:
        cut = {name: values.numel() // 3 for name, values in student.items()}
        return [
            Fragment(name, 0, values.view(-1)[: cut[name]])
            if rank == 0
            else Fragment(name, cut[name], values.view(-1)[cut[name] :])
            for name, values in student.items()
        ]

    ranks = [TeacherAverage(fragments(rank), ema_decay=0.97) for rank in range(2)]
    generator = torch.Generator().manual_seed(1)
    for step in range(50):
        for values in student.values():
            values.add_(0.1 * torch.randn(values.shape, generator=generator))
        for rank, average in enumerate(ranks):
            average.update(fragments(rank))
        average_weights(receiver, step, publish(step + 1, student), 0.97)
    for name in SHAPES:
        learner = torch.cat([part.values for rank in ranks for part in rank.fragments() if part.name == name])
        assert (learner - receiver[name].view(-1)).abs().max() <= 1e-6
        assert (learner - student[name].view(-1)).abs().max() > 0.1, "the average has to lag for this test to tell"


def test_a_resumed_receiver_goes_on_from_the_average_it_is_given() -> None:
    without_break, resumed = make_parameters(0), make_parameters(9)
    for version in range(1, 7):
        average_weights(without_break, version - 1, publish(version, make_parameters(version)), 0.9)
        if version == 3:
            copy_weights(resumed, publish(3, without_break))
        if version > 3:
            average_weights(resumed, version - 1, publish(version, make_parameters(version)), 0.9)
    assert all(torch.equal(without_break[name], resumed[name]) for name in SHAPES)


@pytest.mark.parametrize("given", [3, 5, 6])
def test_a_version_that_is_not_the_next_one_is_refused_and_not_averaged(given: int) -> None:
    held = make_parameters(0)
    with pytest.raises(WeightVersionError, match=f"holds version 3 and was given {given}.*teacher_ema=LEARNER"):
        average_weights(held, 3, publish(given, make_parameters(1)), 0.9)
    assert all(torch.equal(held[name], make_parameters(0)[name]) for name in SHAPES)


def test_an_average_of_rounded_weights_is_another_one() -> None:
    """Why the settings refuse weights.teacher_ema=RECEIVER with bf16 publications."""
    start = torch.ones(1000)
    exact, rounded, student = start.clone(), start.clone(), start.clone()
    for _ in range(50):
        student += 1e-4  # a fiftieth of the distance between two bf16 numbers here
        blend(exact, student, 0.9)
        blend(rounded, student.bfloat16(), 0.9)
    assert (exact - rounded).abs().max() > 1e-3


def test_buffers_are_taken_over_where_parameters_are_averaged() -> None:
    held, student = make_parameters(0), make_parameters(1)
    publication = publish(1, {"norm": student["norm"]})
    buffers = publish(1, {"scale": student["scale"]}).buckets[0]
    publication = replace(publication, buckets=(*publication.buckets, replace(buffers, trains=False)))
    del held["embedding"]
    average_weights(held, 0, publication, 0.9)
    assert torch.equal(held["scale"], student["scale"])
    assert torch.allclose(held["norm"], 0.9 * make_parameters(0)["norm"] + 0.1 * student["norm"])


def test_a_buffer_in_bf16_takes_over_what_is_published_in_fp32() -> None:
    for load in (copy_weights, map_weights):
        held = {"scale": torch.tensor([1.0], dtype=torch.bfloat16)}
        load(held, publish(1, {"scale": torch.tensor([0.5])}))
        assert (held["scale"].item(), held["scale"].dtype) == (0.5, torch.bfloat16)
