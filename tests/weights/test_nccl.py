"""Direct transfer with a fake in NCCL's place; every request is read by vLLM's own classes. Nothing here sees a GPU."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient, WeightSource
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerInitInfo,
    NCCLTrainerWeightTransferEngine,
    NCCLWeightTransferEngine,
    NCCLWeightTransferUpdateInfo,
)

from sdft_ray.records import Bucket, Publication
from sdft_ray.weights.buckets import plan_buckets
from sdft_ray.weights.channel import Meeting, RankWeights, WeightKind
from sdft_ray.weights.fragments import Fragment
from sdft_ray.weights.nccl import NcclChannel, NcclReceiver, NcclSender, join_request, on_one_stream, update_request

MEETING = Meeting("10.0.0.1", 4321, num_ranks=5)
SHAPES = [("embedding", (7, 3)), ("norm", (5,)), ("scale", ())]
PLAN = plan_buckets(SHAPES, max_elements=21)
ANNOUNCED = Publication(
    version=0, buckets=tuple(Bucket(dtype="bfloat16", entries=entries, array=None) for entries in PLAN)
)


class FakeTransfer:
    """A trainer's side whose broadcast is a list; checks the source as vLLM does."""

    def __init__(self, info: NCCLTrainerInitInfo, client: VLLMWeightSyncClient, source: WeightSource):
        self.info, self.client, self.source = info, client, source
        self.sent: list[tuple[str, torch.Tensor]] = []

    @classmethod
    def trainer_init(cls, info: Any, *, client: Any, source: Any) -> "FakeTransfer":
        assert isinstance(client, VLLMWeightSyncClient)
        assert isinstance(source, WeightSource)
        client.init_weight_transfer_engine({})
        return cls(info, client, source)

    def send_weights(self) -> None:
        self.client.start_weight_update()
        self.client.update_weights({})
        pairs = NCCLTrainerWeightTransferEngine._checked_iter(self.source, self.source.metadata())
        self.sent += [(name, tensor.clone()) for name, tensor in pairs]
        self.client.finish_weight_update()


class FakeStream:
    """A queue of which only the order is kept."""

    def __init__(self, cuda: "FakeCuda", name: str):
        self._cuda, self.name = cuda, name

    def wait_stream(self, other: "FakeStream") -> None:
        self._cuda.done.append(f"{self.name} waits for {other.name}")


class FakeCuda:
    """`torch.cuda` as far as the sender uses it; keeps what was asked for, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._current = FakeStream(self, "default")

    def synchronize(self) -> None:
        self.done.append("synchronize")

    def current_stream(self) -> FakeStream:
        return self._current

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self._current = self._current, stream
        yield
        self._current = before


class OnGpu:
    """A tensor that tells its allocator who reads it."""

    def __init__(self, tensor: torch.Tensor, cuda: FakeCuda):
        self._tensor, self._cuda = tensor, cuda

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor, name)

    def record_stream(self, stream: FakeStream) -> None:
        self._cuda.done.append(f"{stream.name} reads")


def make_sender(values: dict[str, torch.Tensor], cuda: FakeCuda | None = None) -> NcclSender:
    """A sender whose weights, in one bucket, tell when and on which stream they are made."""
    cuda = cuda or FakeCuda()

    def fragments(kind: WeightKind) -> Iterator[Fragment]:
        assert kind is WeightKind.STUDENT
        for name, value in values.items():
            cuda.done.append(f"{name} is made on {cuda.current_stream().name}")
            yield Fragment(name, 0, value.float().view(-1))

    weights = RankWeights(
        shapes=tuple(SHAPES),
        fragments=fragments,
        buffers=dict,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )
    sender = NcclSender(weights, transfer=FakeTransfer, cuda=cuda)
    sender.connect(MEETING)
    return sender


@pytest.fixture(autouse=True)
def readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors in host memory have no streams that could read them."""
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_nothing_is_sent_before_the_device_has_done_what_was_queued() -> None:
    cuda = FakeCuda()
    make_sender({name: torch.zeros(shape).bfloat16() for name, shape in SHAPES}, cuda).publish(WeightKind.STUDENT, 1)
    assert cuda.done[:2] == ["synchronize", "embedding is made on default"]


def test_readers_on_other_streams_wait_for_what_is_made_and_keep_its_memory() -> None:
    cuda = FakeCuda()

    def parameters() -> Iterator[tuple[str, OnGpu]]:
        for name in ("first", "second"):
            cuda.done.append(f"{name} is made on {cuda.current_stream().name}")
            yield name, OnGpu(torch.zeros(2), cuda)

    made = on_one_stream(parameters(), cuda.current_stream(), cuda)  # type: ignore[arg-type]
    for reader in ("one", "other"):  # vLLM has a stream for each of its buffers
        with cuda.stream(FakeStream(cuda, reader)):
            next(made)
            assert cuda.current_stream().name == reader
    assert list(made) == []
    assert cuda.done == [
        "first is made on default",
        "one waits for default",
        "one reads",
        "second is made on default",
        "other waits for default",
        "other reads",
    ]


def test_every_engine_is_brought_to_ranks_of_its_own_in_one_meeting_with_the_learner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = make_sender({})._transfer.info
    for first_rank in (1, 3):
        info = NCCLWeightTransferInitInfo(**join_request(MEETING, first_rank).init_info)
        assert info.rank_offset == first_rank
        assert (info.master_address, info.master_port, info.world_size) == tuple(MEETING)
        assert (learner.master_address, learner.master_port, learner.world_size) == tuple(MEETING)
        assert (info.packed, info.packed_buffer_size_bytes, info.packed_num_buffers) == (
            learner.packed,
            learner.packed_buffer_size_bytes,
            learner.packed_num_buffers,
        )
    for rank, sends in enumerate((True, False, False)):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        assert make_sender({})._transfer.info.is_sender == sends


def test_an_engine_expects_in_one_call_exactly_what_is_sent() -> None:
    values = {name: torch.randn(shape).bfloat16() for name, shape in SHAPES}
    sender = make_sender(values)
    announced = sender.publish(WeightKind.STUDENT, 4)
    assert announced is not None and announced.version == 4
    assert all(bucket.array is None for bucket in announced.buckets), "an announcement holds no values"
    info = NCCLWeightTransferUpdateInfo(**update_request(announced).update_info)
    sent = sender._transfer.sent
    assert info.names == [name for name, _ in sent]
    assert [getattr(torch, name) for name in info.dtype_names] == [tensor.dtype for _, tensor in sent]
    assert info.shapes == [list(tensor.shape) for _, tensor in sent]
    assert all(torch.equal(tensor, values[name]) for name, tensor in sent)
    values["scale"].add_(1.0)
    sender.publish(WeightKind.STUDENT, 5)
    assert torch.equal(sender._transfer.sent[-1][1], values["scale"])


def test_the_engine_is_started_with_the_transfer_that_reads_these_requests() -> None:
    assert NcclReceiver().engine_arguments()["weight_transfer_config"].backend == "nccl"
    assert NCCLWeightTransferEngine.init_info_cls is NCCLWeightTransferInitInfo
    assert NCCLWeightTransferEngine.update_info_cls is NCCLWeightTransferUpdateInfo


class FakeLlm:
    """vLLM's engine, which tells what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def ask(*requests: Any) -> None:
            self.asked.append(" ".join([name, *(type(request).__name__ for request in requests)]))

        return ask


class FakeEngine:
    """An inference engine that has only vLLM's own transfer."""

    def __init__(self) -> None:
        self.llm = FakeLlm()

    async def call_vllm(self, call: Callable[[Any], Any]) -> Any:
        return await call(self.llm)


async def test_an_engine_joins_once_and_opens_and_closes_its_weights_around_what_it_receives() -> None:
    receiver, engine = NcclReceiver(), FakeEngine()
    await receiver.connect(engine, MEETING, 1)  # type: ignore[arg-type]
    await receiver.load(engine, ANNOUNCED)  # type: ignore[arg-type]
    assert engine.llm.asked == [
        "init_weight_transfer_engine WeightTransferInitRequest",
        "start_weight_update",
        "update_weights WeightTransferUpdateRequest",
        "finish_weight_update",
    ]


class Engines:
    """Rollout workers that receive only while the learner sends."""

    role = "rollout"
    size = 2

    def __init__(self) -> None:
        self.everybody_there = asyncio.Barrier(3)
        self.received: list[Publication] = []

    async def on_serving(self, call: Callable[[Any], Any], work: Any) -> dict[int, int]:
        return dict(enumerate(await asyncio.gather(*map(call, range(self.size)))))

    def confirm_version(self, acknowledged: Any, version: int) -> None:
        assert acknowledged == {0: version, 1: version}

    async def load(self, actor: int, publication: Publication) -> int:
        self.received.append(publication)
        if publication.buckets[0].array is None:
            await self.everybody_there.wait()
        return publication.version


async def test_the_student_is_sent_while_all_engines_receive_and_other_weights_take_the_usual_way() -> None:
    engines = Engines()
    stored = Publication(version=4, buckets=(Bucket(dtype="bfloat16", entries=PLAN[0], array="handle"),))

    async def publish(kind: WeightKind, version: int) -> Publication:
        if kind is WeightKind.EMA:
            return stored
        await engines.everybody_there.wait()
        return ANNOUNCED

    channel = NcclChannel(publish, 5.0)
    channel.announcement = ANNOUNCED
    await channel.deliver(WeightKind.STUDENT, 4, engines, engines.load)
    assert [(received.version, received.buckets) for received in engines.received] == [(4, ANNOUNCED.buckets)] * 2
    assert channel.take_metrics()["weights/published_bytes"] == 2 * (21 + 5 + 1)
    await channel.deliver(WeightKind.EMA, 4, engines, engines.load)
    assert engines.received[2:] == [stored, stored]
