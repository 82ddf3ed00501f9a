"""Weight sync: what a channel is. `object_store`, `shared_memory` and `nccl` are the channels there are.

A channel is one module with both of its ends, `ENDS`: a `Sender` on every learner rank, the handles of its buckets or
a `Receiver` in the workers, and a `WeightChannel` on the driver. A new one is such a module and a member of
`config.Channel` with the same name.

Weights are pulled: a worker pool that needs version N asks the driver's end for it. The learner publishes that kind of
weights once, and every pool that asks gets the same handles. Weights that no pool asks for never travel. Supervised
fine-tuning publishes for the guard of the start and before an evaluation. A frozen teacher gets nothing, and a live one
reads the student's own buckets. The driver sees handles only.
"""

import asyncio
import operator
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum
from importlib import import_module
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from sdft_ray.config import Channel
from sdft_ray.errors import WeightVersionError
from sdft_ray.records import Bucket, Publication
from sdft_ray.weights.buckets import published_bytes, unpack
from sdft_ray.weights.fragments import Fragment, Shapes
from sdft_ray.workers.deadlines import Work

T = TypeVar("T")


class WeightKind(Enum):
    """Which of the learner's two sets of weights."""

    STUDENT = "student"
    EMA = "ema"


class Meeting(NamedTuple):
    """Where the learner's rank 0 and all ranks of all engines meet to send and receive, and how many they are."""

    address: str
    port: int
    num_ranks: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RankWeights:
    """The learner's weights on one of its ranks, as a sender reads them."""

    shapes: Shapes  # of what is published of the student
    fragments: Callable[[WeightKind], Iterator[Fragment]]  # those this rank owns, as they are when it is called
    buffers: Callable[[], Mapping[str, torch.Tensor]]  # floating ones that are saved with the network, by name
    dtype: torch.dtype  # of the workers' weights
    device: torch.device  # where ranks exchange theirs
    average_shapes: Shapes = ()  # of the average, where they are others

    def shapes_of(self, kind: WeightKind) -> Shapes:
        """Names and shapes of what is published of `kind`."""
        return self.average_shapes if kind is WeightKind.EMA and self.average_shapes else self.shapes


class Sender(ABC):
    """The learner's end. Every rank has one and makes the same calls in the same order: each may be a collective."""

    @abstractmethod
    def publish(self, kind: WeightKind, version: int) -> Publication | None:
        """Makes the weights of `kind` available: handles on rank 0, None elsewhere, complete once all have returned."""

    def allocate(self, kind: WeightKind, owned: list[Fragment]) -> list[Fragment]:
        """Copies this rank's values to where publishing them moves nothing, and returns them; else returns `owned`."""
        return owned

    def connect(self, meeting: Meeting) -> Publication | None:
        """Joins the engines where weights are pushed to them; tells what will be sent, without its values."""
        return None


class ArrayHandle(Protocol):
    """A worker's end: where the array of one bucket is, and how it is read there."""

    def open(self, dtype: str) -> np.ndarray:
        """The array [elements], read-only, in any process of the run that has Ray."""
        ...

    def mapped(self) -> AbstractAsyncContextManager[tuple[str, str]]:
        """Path and name of memory that holds it, inside the block, for processes without Ray on the same node."""
        ...


class LoadingEngine(Protocol):
    """An inference engine whose own processes take weights over."""

    async def load_buckets(self, buckets: AsyncGenerator[Bucket, None]) -> None:
        """Replaces all weights; the array of each bucket is path and name of mapped memory."""
        ...

    async def call_vllm(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """Awaits a call of vLLM's own engine."""
        ...


class Receiver:
    """An inference engine's end. By default it pulls what a publication's handles stand for."""

    def engine_arguments(self) -> dict[str, Any]:
        """What vLLM's engine has to be started with for this channel, by the names of `AsyncEngineArgs`."""
        return {}

    async def connect(self, engine: LoadingEngine, meeting: Meeting, first_rank: int) -> None:
        """Brings the engine's ranks, from `first_rank` on, to the sender where weights are pushed."""

    async def load(self, engine: LoadingEngine, publication: Publication) -> None:
        """Replaces all weights of the engine; nothing may be computed meanwhile."""
        await engine.load_buckets(mapped(publication))


class Workers(Protocol):
    """The workers of one role, as the channel has to know them."""

    role: str
    size: int

    async def on_first(self, call: Callable[[Any], Any], work: Work) -> Any:
        """Makes `call(actor)` on the first actor."""
        ...

    async def on_all(self, call: Callable[[Any], Any], work: Work) -> list[Any]:
        """Makes `call(actor)` on every actor."""
        ...

    async def on_each(self, call: Callable[[Any, Any], Any], items: Sequence[Any], works: Sequence[Work]) -> list[Any]:
        """Makes `call(actor, item)` on every actor with its own item."""
        ...

    async def on_serving(self, call: Callable[[Any], Any], work: Work) -> dict[int, Any]:
        """Makes `call(actor)` on every actor that serves; answers by rank."""
        ...

    def confirm_version(self, acknowledged: Mapping[int, int], version: int) -> None:
        """Checks what every worker answered, by rank."""
        ...


class WeightChannel:
    """One publication per kind and version for all who need it at that time."""

    def __init__(self, publish: Callable[[WeightKind, int], Awaitable[Publication]], timeout_s: float):
        """`timeout_s` is the most that the learner may take to publish a version, and a worker to take it over."""
        self._publish = publish
        self._timeout_s = timeout_s
        self._open: dict[tuple[WeightKind, int], _Shared] = {}
        self._metrics: dict[str, float] = {}

    async def deliver(
        self,
        kind: WeightKind,
        version: int,
        receivers: Workers,
        load: Callable[[Any, Publication], Awaitable[int]],
    ) -> None:
        """Returns when every one of `receivers` that serves holds these weights: one call of `load` each.

        Raises:
            WeightVersionError: the learner did not publish in time, or a worker holds another version afterwards.
        """
        async with self._publication(kind, version) as publication:
            await self._load(publication, receivers, load)

    def pushes(self, kind: WeightKind) -> bool:
        """True when the learner sends these weights, and there is nothing that workers could read."""
        return False

    async def connect(self, learner: Workers, engines: Workers, ranks_per_engine: int) -> None:
        """Brings both ends together before the first delivery, where weights are pushed."""

    def take_metrics(self) -> dict[str, float]:
        """Time and bytes since the last call by metric key; empty where nothing was published."""
        taken, self._metrics = self._metrics, {}
        return taken

    async def _load(
        self, publication: Publication, receivers: Workers, load: Callable[[Any, Publication], Awaitable[int]]
    ) -> None:
        start = time.perf_counter()
        version = publication.version
        work = Work("load weights", most_s=self._timeout_s)
        held = await receivers.on_serving(lambda actor: load(actor, publication), work)
        self._record("weights/load_s", time.perf_counter() - start, max)
        receivers.confirm_version(held, version)

    @asynccontextmanager
    async def _publication(self, kind: WeightKind, version: int) -> AsyncIterator[Publication]:
        """The handles of that publication, inside the block; with its last user the buckets' memory may be used again.

        Raises:
            WeightVersionError: another version of these weights is still being loaded, from memory that this one
                would overwrite.
        """
        held = [older for held_kind, older in self._open if held_kind is kind and older != version]
        if held:
            raise WeightVersionError(f"{kind.value} weights {version} were asked for while {held[0]} are being loaded")
        key = (kind, version)
        if key not in self._open:
            self._open[key] = _Shared(asyncio.ensure_future(self._published(kind, version)))
        shared = self._open[key]
        shared.num_users += 1
        try:
            yield await asyncio.shield(shared.publication)
        finally:
            shared.num_users -= 1
            if shared.num_users == 0:
                del self._open[key]

    async def _published(self, kind: WeightKind, version: int) -> Publication:
        start = time.perf_counter()
        publication = await self._in_time(
            self._publish(kind, version), f"the learner did not publish {kind.value} weights {version}"
        )
        self._record("weights/publish_s", time.perf_counter() - start, max)
        self._record("weights/published_bytes", float(published_bytes(publication)), operator.add)
        return publication

    def _record(self, key: str, value: float, merge: Callable[[float, float], float]) -> None:
        """Times of what goes on together are not added up: a step waits for the slowest."""
        self._metrics[key] = merge(self._metrics.get(key, 0.0), value)

    async def _in_time(self, answer: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                return await answer
        except TimeoutError:
            if not limit.expired():  # the answer itself
                raise
            raise WeightVersionError(
                f"{what} within weights.timeout_s={self._timeout_s:g}; its log says what it was doing. "
                "Raise weights.timeout_s if it was only slow."
            ) from None


@dataclass(slots=True)
class _Shared:
    """A publication and how many use it."""

    publication: asyncio.Future[Publication]
    num_users: int = 0


class Ends(NamedTuple):
    """All of one channel: the constant `ENDS` of the module in this package that has the channel's name."""

    sender: Callable[[RankWeights], Sender]  # on every learner rank
    receiver: Callable[[], Receiver] = Receiver  # in the worker of an inference engine
    driver: type[WeightChannel] = WeightChannel


def ends_of(channel: Channel) -> Ends:
    """The ends of a channel. Its module is imported here and nowhere else, so a run loads its own channels only."""
    ends: Ends = import_module(f"{__package__}.{channel.name.lower()}").ENDS
    return ends


def open_publication(publication: Publication) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of a publication, one bucket after the other, as read-only views of shared memory."""
    for bucket in publication.buckets:
        handle: ArrayHandle = bucket.array
        yield from unpack(bucket, handle.open(bucket.dtype))


async def mapped(publication: Publication) -> AsyncGenerator[Bucket, None]:
    """The buckets, the array of each as path and name of mapped memory."""
    for bucket in publication.buckets:
        handle: ArrayHandle = bucket.array
        async with handle.mapped() as memory:
            yield replace(bucket, array=memory)
