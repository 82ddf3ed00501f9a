"""Both ends of every channel on one rank; tests/cluster/test_learner.py has real ranks and every ZeRO stage."""

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
import torch.distributed as dist

from sdft_ray.config import Channel
from sdft_ray.errors import ClusterError
from sdft_ray.records import Bucket, Publication
from sdft_ray.tensors import to_tensor
from sdft_ray.weights import channel as channel_module
from sdft_ray.weights.buckets import plan_buckets, unpack, views
from sdft_ray.weights.channel import Ends, Receiver, Sender, WeightChannel, WeightKind, ends_of, open_publication
from sdft_ray.weights.fragments import Fragment, TeacherAverage, assembled
from sdft_ray.weights.object_store import StoredArray
from sdft_ray.weights.shared_memory import map_memory
from tests.weights.publications import fragments_of, publish, shapes_of, weights_of

PULLED = [Channel.SHARED_MEMORY, Channel.OBJECT_STORE]


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


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store that hands back what was put."""
    monkeypatch.setattr(ray, "put", lambda array: array)
    monkeypatch.setattr(ray, "get", lambda reference, timeout: reference)


def make_sender(channel: Channel, *args: Any) -> Sender:
    return ends_of(channel).sender(weights_of(*args))


def test_a_channel_is_the_one_module_that_has_its_name() -> None:
    modules = {path.stem for path in Path(channel_module.__file__).parent.glob("*.py")}
    channels = [channel for channel in Channel if channel is not Channel.AUTO]
    for channel in channels:
        ends = ends_of(channel)
        assert isinstance(ends, Ends)
        assert isinstance(ends.sender(weights_of(Tied())), Sender)
        assert isinstance(ends.receiver(), Receiver)
        assert issubclass(ends.driver, WeightChannel)
    assert modules - {channel.name.lower() for channel in channels} == {
        "__init__",
        "buckets",
        "channel",
        "checksum",
        "fragments",
        "plan",
    }


def test_no_module_but_its_own_asks_for_a_channel_by_name() -> None:
    """What a channel can do stands at its member of `Channel`; AUTO alone chooses two of them by name."""
    package = Path(channel_module.__file__).parents[1]
    named = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for member in ("NCCL", "SHARED_MEMORY")
        if f"Channel.{member}" in path.read_text()
    }
    assert named == {"config/weights.py"}
    assert "Channel.NCCL" not in (package / "config" / "weights.py").read_text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_memory_holds_every_parameter_once_in_one_bucket_in_the_workers_dtype(dtype: torch.dtype) -> None:
    module = Tied()
    publication = make_sender(Channel.SHARED_MEMORY, module, dtype).publish(WeightKind.STUDENT, 3)
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
    sender = make_sender(Channel.SHARED_MEMORY, module, torch.float32, average)

    def published(kind: WeightKind, version: int) -> dict[str, torch.Tensor]:
        publication = sender.publish(kind, version)
        assert publication is not None
        return dict(open_publication(publication))

    first = published(WeightKind.STUDENT, 1)
    assert not published(WeightKind.EMA, 1)["embedding.weight"].any()
    assert torch.equal(first["embedding.weight"], module.embedding.weight)
    descriptors = len(os.listdir("/proc/self/fd"))
    with torch.no_grad():
        module.embedding.weight.add_(1.0)
    second = published(WeightKind.STUDENT, 2)
    assert torch.equal(second["embedding.weight"], module.embedding.weight)
    assert torch.equal(first["embedding.weight"], module.embedding.weight), "the memory is written anew"
    del first, second
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1


@pytest.mark.parametrize("channel", PULLED)
def test_an_average_goes_on_where_its_sender_allocates_it(channel: Channel) -> None:
    module = Tied()
    average = TeacherAverage(fragments_of(module), ema_decay=0.9)
    alone = TeacherAverage(fragments_of(module), ema_decay=0.9)
    sender = make_sender(channel, module, torch.float32)
    average.move(partial(sender.allocate, WeightKind.EMA))
    for _ in range(3):
        with torch.no_grad():
            for value in module.parameters():
                value.mul_(1.1)
        average.update(fragments_of(module))
        alone.update(fragments_of(module))
    reference = {fragment.name: fragment.values for fragment in alone.fragments()}
    assert all(torch.equal(values, reference[name]) for name, _, values in average.fragments())
    assert all(values.untyped_storage().nbytes() == values.nbytes for _, _, values in average.fragments())
    if channel is Channel.SHARED_MEMORY:
        publication = sender.publish(WeightKind.EMA, 3)
        assert publication is not None
        for name, tensor in open_publication(publication):
            assert torch.equal(tensor.view(-1), reference[name])


@pytest.mark.parametrize("channel", PULLED)
def test_masters_are_rounded_for_workers_in_bf16_when_they_are_published(channel: Channel) -> None:
    module = Tied()
    average = [Fragment(name, 0, value.clone()) for name, _, value in fragments_of(module)]
    publication = make_sender(channel, module, torch.bfloat16, average).publish(WeightKind.EMA, 1)
    assert publication is not None
    for name, tensor in open_publication(publication):
        assert torch.equal(tensor, module.get_parameter(name).bfloat16())
    assert {values.dtype for _, _, values in average} == {torch.float32}


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
    looks = []
    for max_elements in (4, 1000):
        monkeypatch.setattr("sdft_ray.weights.fragments.plan_buckets", partial(plan_buckets, max_elements=max_elements))
        Counted.num_looks = 0
        counted = (Counted(*fragment) for fragment in fragments_of(module))
        state = {}
        for entries, array in assembled(shapes_of(module), counted, torch.float32, torch.device("cpu")):
            state |= dict(views(entries, to_tensor(array)))
        assert all(torch.equal(state[name], value) for name, value in module.named_parameters())
        looks.append(Counted.num_looks)
    assert looks[0] == looks[1] <= 4 * 50


class Scaled(Tied):
    """With weights in buffers, of which one is made anew by everybody."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([0.3]))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("made", torch.ones(2), persistent=False)


@pytest.mark.parametrize("kind", WeightKind)
@pytest.mark.parametrize("channel", PULLED)
def test_saved_buffers_are_published_as_they_are_whatever_the_workers_dtype(channel: Channel, kind: WeightKind) -> None:
    module = Scaled()
    sender = make_sender(channel, module, torch.bfloat16)
    for version, value in ((1, 0.3), (2, 0.7)):
        module.scale.fill_(value)
        publication = sender.publish(kind, version)
        assert publication is not None
        *parameters, buffers = publication.buckets
        assert all(bucket.trains for bucket in parameters)
        assert not buffers.trains
        published = dict(unpack(buffers, buffers.array.open(buffers.dtype)))
        assert published.keys() == {"scale"}
        assert torch.equal(published["scale"], module.scale)


class FakeEngine:
    """Takes over what is mapped while it is asked to, and keeps the handles."""

    def __init__(self) -> None:
        self.loaded: list[tuple[list[float], tuple[str, str]]] = []

    async def load_buckets(self, buckets: Any) -> None:
        async for bucket in buckets:
            self.loaded.append((map_memory(bucket.array, bucket.dtype).tolist(), bucket.array))


def test_an_engine_maps_a_bucket_in_shared_memory_as_it_is() -> None:
    engine, publication = FakeEngine(), publish(1, {"a": torch.ones(3)})
    asyncio.run(ends_of(Channel.SHARED_MEMORY).receiver().load(engine, publication))  # type: ignore[arg-type]
    assert engine.loaded == [([1.0, 1.0, 1.0], publication.buckets[0].array)]


def test_an_engine_is_given_a_copy_of_a_stored_bucket_for_as_long_as_it_needs_it() -> None:
    async def reference() -> np.ndarray:
        return np.arange(6, dtype=np.float32)

    async def load(engine: FakeEngine) -> None:
        (entries,) = plan_buckets([("a", (6,))])
        bucket = Bucket(dtype="float32", entries=entries, array=StoredArray(reference()))
        publication = Publication(version=1, buckets=(bucket,))
        await ends_of(Channel.OBJECT_STORE).receiver().load(engine, publication)  # type: ignore[arg-type]

    engine = FakeEngine()
    asyncio.run(load(engine))
    ((values, memory),) = engine.loaded
    assert values == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ClusterError):
        map_memory(memory, "float32")  # type: ignore[arg-type]


def test_a_publication_in_memory_opens_as_what_was_published() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        values = {name: torch.randn(shape).to(dtype) for name, shape in (("a", (7, 3)), ("b", (90,)), ("c", ()))}
        publication = publish(1, values)
        assert len(publication.buckets) == 2
        opened = dict(open_publication(publication))
        assert opened.keys() == values.keys()
        assert all(torch.equal(opened[name], values[name]) for name in values)
