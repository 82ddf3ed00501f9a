"""Publishing on one rank; tests/cluster/test_learner.py has real ranks and every ZeRO stage."""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist

from sdft_ray.config import Channel
from sdft_ray.learner.average import TeacherAverage
from sdft_ray.learner.fragments import Fragment, master_fragments, move_parameters
from sdft_ray.learner.publisher import DirectPublisher, assembled, full_state, make_publisher
from sdft_ray.tensors import to_tensor
from sdft_ray.weights.buckets import plan_buckets, unpack, views
from sdft_ray.weights.channel import Meeting, WeightKind
from sdft_ray.weights.memory_file import map_memory
from sdft_ray.weights.opening import open_publication


class Tied(torch.nn.Module):
    """Two names for one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 4)
        self.norm = torch.nn.LayerNorm(4)
        self.head = torch.nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_memory_holds_every_parameter_once_in_one_bucket_in_the_workers_dtype(dtype: torch.dtype) -> None:
    module = Tied()
    publisher = make_publisher(Channel.SHARED_MEMORY, module, dtype, torch.device("cpu"))
    publication = publisher.publish(WeightKind.STUDENT, 3, lambda: master_fragments(module, 0, 1))
    assert publication is not None and publication.version == 3
    assert [entry.name for bucket in publication.buckets for entry in bucket.entries] == [
        "embedding.weight",
        "norm.weight",
        "norm.bias",
    ]
    assert len(publication.buckets) == 1
    for name, tensor in open_publication(publication):
        assert torch.equal(tensor, module.get_parameter(name).to(dtype))


def test_the_same_memory_carries_every_version_and_each_kind_has_its_own() -> None:
    module = Tied()
    average = [Fragment(name, 0, torch.zeros(value.numel())) for name, value in module.named_parameters()]
    publisher = make_publisher(Channel.SHARED_MEMORY, module, torch.float32, torch.device("cpu"))

    def publish(kind: WeightKind, version: int) -> dict[str, torch.Tensor]:
        fragments = {WeightKind.STUDENT: lambda: master_fragments(module, 0, 1), WeightKind.EMA: lambda: iter(average)}
        publication = publisher.publish(kind, version, fragments[kind])
        assert publication is not None
        return dict(open_publication(publication))

    first = publish(WeightKind.STUDENT, 1)
    assert not publish(WeightKind.EMA, 1)["embedding.weight"].any()
    assert torch.equal(first["embedding.weight"], module.embedding.weight)
    descriptors = len(os.listdir("/proc/self/fd"))
    with torch.no_grad():
        module.embedding.weight.add_(1.0)
    second = publish(WeightKind.STUDENT, 2)
    assert torch.equal(second["embedding.weight"], module.embedding.weight)
    assert torch.equal(first["embedding.weight"], module.embedding.weight), "the memory is written anew"
    del first, second
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1


@pytest.mark.parametrize("channel", [Channel.SHARED_MEMORY, Channel.OBJECT_STORE])
def test_an_average_goes_on_where_its_publisher_houses_it(channel: Channel) -> None:
    module = Tied()
    average = TeacherAverage(master_fragments(module, 0, 1), ema_decay=0.9)
    alone = TeacherAverage(master_fragments(module, 0, 1), ema_decay=0.9)
    publisher = make_publisher(channel, module, torch.float32, torch.device("cpu"))
    average.move(partial(publisher.house, WeightKind.EMA))
    for _ in range(3):
        with torch.no_grad():
            for value in module.parameters():
                value.mul_(1.1)
        average.update(master_fragments(module, 0, 1))
        alone.update(master_fragments(module, 0, 1))
    reference = {fragment.name: fragment.values for fragment in alone.fragments()}
    assert all(torch.equal(values, reference[name]) for name, _, values in average.fragments())
    assert all(values.untyped_storage().nbytes() == values.nbytes for _, _, values in average.fragments())
    if channel is Channel.SHARED_MEMORY:
        publication = publisher.publish(WeightKind.EMA, 3, average.fragments)
        assert publication is not None
        for name, tensor in open_publication(publication):
            assert torch.equal(tensor.view(-1), reference[name])


def test_an_average_for_workers_in_bf16_stays_in_fp32_and_is_rounded_when_published() -> None:
    module = Tied()
    average = TeacherAverage(master_fragments(module, 0, 1), ema_decay=0.9)
    publisher = make_publisher(Channel.SHARED_MEMORY, module, torch.bfloat16, torch.device("cpu"))
    average.move(partial(publisher.house, WeightKind.EMA))
    assert {fragment.values.dtype for fragment in average.fragments()} == {torch.float32}
    publication = publisher.publish(WeightKind.EMA, 1, average.fragments)
    assert publication is not None
    for name, tensor in open_publication(publication):
        assert torch.equal(tensor, module.get_parameter(name).bfloat16())


@pytest.mark.parametrize("channel", [Channel.SHARED_MEMORY, Channel.OBJECT_STORE])
def test_weights_of_a_single_rank_go_on_as_the_same_parameters_where_their_publisher_houses_them(
    channel: Channel,
) -> None:
    module, alone = Tied(), Tied()
    alone.load_state_dict(module.state_dict())
    publisher = make_publisher(channel, module, torch.float32, torch.device("cpu"))
    parameters = dict(module.named_parameters())
    optimizers = [torch.optim.AdamW(each.parameters(), lr=0.1) for each in (module, alone)]
    move_parameters(module, partial(publisher.house, WeightKind.STUDENT))
    for _ in range(2):
        for each, optimizer in zip((module, alone), optimizers, strict=True):
            optimizer.zero_grad()
            sum(value.square().sum() for value in each.parameters()).backward()
            optimizer.step()
    assert all(value is parameters[name] for name, value in module.named_parameters())
    assert all(torch.equal(value, alone.get_parameter(name)) for name, value in module.named_parameters())
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in module.parameters())
    if channel is Channel.SHARED_MEMORY:
        publication = publisher.publish(WeightKind.STUDENT, 2, lambda: iter(()))  # from where they are
        assert publication is not None
        assert all(torch.equal(tensor, parameters[name]) for name, tensor in open_publication(publication))


def test_the_full_state_is_that_of_the_fragments() -> None:
    module = Tied()
    state = full_state(module, lambda: master_fragments(module, 0, 1), torch.float32, torch.device("cpu"))
    assert state.keys() == dict(module.named_parameters()).keys()
    assert all(torch.equal(state[name], value) for name, value in module.named_parameters())


class Counted(Fragment):
    """A fragment that counts how often its name is looked at."""

    num_looks = 0

    def __getattribute__(self, key: str) -> Any:
        Counted.num_looks += key == "name"
        return super().__getattribute__(key)


def test_a_publication_in_many_buckets_looks_at_each_fragment_as_often_as_one_in_a_single_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = torch.nn.ModuleList(torch.nn.Linear(2, 2, bias=False) for _ in range(50))

    def fragments() -> Iterator[Fragment]:
        return (Counted(*fragment) for fragment in master_fragments(module, 0, 1))

    looks = []
    for max_elements in (4, 1000):
        monkeypatch.setattr("sdft_ray.learner.publisher.plan_buckets", partial(plan_buckets, max_elements=max_elements))
        Counted.num_looks = 0
        state = {}
        for entries, array in assembled(module, fragments, torch.float32, torch.device("cpu")):
            state |= dict(views(entries, to_tensor(array)))
        assert all(torch.equal(state[name], value) for name, value in module.named_parameters())
        looks.append(Counted.num_looks)
    assert looks[0] == looks[1] <= 4 * 50


class FakeEnd:
    """Takes the place of NCCL: what is sent is kept."""

    def __init__(self, rank: int, meeting: Meeting, entries: list[Any], dtype: torch.dtype, parameters: Any):
        self.names = [entry.name for entry in entries]
        self.sent: list[dict[str, torch.Tensor]] = []
        self._parameters = parameters

    def send(self) -> None:
        self.sent.append(dict(self._parameters()))


def test_the_students_weights_go_directly_and_all_others_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdft_ray.weights.nccl.LearnerEnd", FakeEnd)
    module, cpu = Tied(), torch.device("cpu")
    others = make_publisher(Channel.SHARED_MEMORY, module, torch.float32, cpu)
    meeting = Meeting("10.0.0.1", 4321, num_ranks=2)

    def student() -> Iterator[Fragment]:
        return master_fragments(module, 0, 1)

    publisher = DirectPublisher(module, torch.bfloat16, cpu, student, meeting, others)
    announced = publisher.publish(WeightKind.STUDENT, 4, student)
    assert announced is not None and announced.version == 4
    (sent,) = publisher._end.sent
    assert list(sent) == publisher._end.names == [entry.name for part in announced.buckets for entry in part.entries]
    assert all(bucket.array is None for bucket in announced.buckets), "an announcement holds no values"
    for name, tensor in sent.items():
        assert torch.equal(tensor, module.get_parameter(name).bfloat16())
    averaged = publisher.publish(WeightKind.EMA, 4, student)
    assert averaged is not None
    assert dict(open_publication(averaged)).keys() == sent.keys()
    assert len(publisher._end.sent) == 1


class Scaled(Tied):
    """With weights in buffers, of which one is made anew by everybody."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([0.3]))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("made", torch.ones(2), persistent=False)


@pytest.mark.parametrize("kind", WeightKind)
@pytest.mark.parametrize("channel", [Channel.SHARED_MEMORY, Channel.OBJECT_STORE])
def test_saved_buffers_are_published_as_they_are_whatever_the_workers_dtype(
    monkeypatch: pytest.MonkeyPatch, channel: Channel, kind: WeightKind
) -> None:
    monkeypatch.setattr("sdft_ray.learner.publisher.ray.put", lambda array: array)
    module = Scaled()
    publisher = make_publisher(channel, module, torch.bfloat16, torch.device("cpu"))
    for version, value in ((1, 0.3), (2, 0.7)):
        module.scale.fill_(value)
        publication = publisher.publish(kind, version, lambda: master_fragments(module, 0, 1))
        assert publication is not None
        *parameters, buffers = publication.buckets
        assert all(bucket.trains for bucket in parameters)
        assert not buffers.trains
        array = buffers.array if channel is Channel.OBJECT_STORE else map_memory(buffers.array, buffers.dtype)
        published = dict(unpack(buffers, array))
        assert published.keys() == {"scale"}
        assert torch.equal(published["scale"], module.scale)


def test_the_full_state_holds_saved_buffers_in_their_own_dtype() -> None:
    module = Scaled()
    state = full_state(module, lambda: master_fragments(module, 0, 1), torch.bfloat16, torch.device("cpu"))
    assert state.keys() == module.state_dict().keys() - {"head.weight"}
    assert (state["scale"].dtype, state["steps"].dtype) == (torch.float32, torch.int64)
