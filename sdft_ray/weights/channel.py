"""The driver's end of the weight channel: which pool needs which weights, and when all its workers have them.

Weights are pulled: a worker pool that needs version N asks the channel for it. The learner publishes that kind of
weights once, and every pool that asks gets the same handles. Weights that no pool asks for never travel. Supervised
fine-tuning publishes for the guard of the start and before an evaluation. A frozen teacher gets nothing, and a live one
reads the student's own buckets.
The learner's publisher (object store or shared memory) settles what a handle stands for. Workers open it by
`weights.opening`; the driver sees handles only.
"""

import asyncio
import operator
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

from sdft_ray.errors import WeightVersionError
from sdft_ray.records import Publication
from sdft_ray.weights.buckets import published_bytes

T = TypeVar("T")


class WeightKind(Enum):
    """Which of the learner's two sets of weights."""

    STUDENT = "student"
    EMA = "ema"


class Receivers(Protocol):
    """The workers of one role, as the channel has to know them."""

    role: str
    size: int

    async def on_each(self, call: Callable[[Any, Any], Any], items: Sequence[Any]) -> list[Any]:
        """Makes `call(actor, item)` on every actor with its own item."""
        ...

    def confirm_version(self, acknowledged: Sequence[int], version: int) -> None:
        """Checks what every worker answered."""
        ...


class WeightChannel:
    """One publication per kind and version for all who need it at that time."""

    def __init__(self, publish: Callable[[WeightKind, int], Awaitable[Publication]], timeout_s: float):
        """`timeout_s` holds for the learner to publish a version and for each worker to take it over."""
        self._publish = publish
        self._timeout_s = timeout_s
        self._open: dict[tuple[WeightKind, int], _Shared] = {}
        self._metrics: dict[str, float] = {}

    async def deliver(
        self,
        kind: WeightKind,
        version: int,
        receivers: Receivers,
        load: Callable[[Any, Publication], Awaitable[int]],
    ) -> None:
        """Returns when every one of `receivers` holds these weights: one call of `load` each.

        Raises:
            WeightVersionError: a worker did not answer in time, or holds another version afterwards.
        """
        async with self._publication(kind, version) as publication:
            await self._load(publication, receivers, load)

    def take_metrics(self) -> dict[str, float]:
        """Time and bytes since the last call by metric key; empty where nothing was published."""
        taken, self._metrics = self._metrics, {}
        return taken

    async def _load(
        self, publication: Publication, receivers: Receivers, load: Callable[[Any, Publication], Awaitable[int]]
    ) -> None:
        start = time.perf_counter()
        version = publication.version
        held = await receivers.on_each(
            lambda actor, rank: self._in_time(
                load(actor, publication), f"{receivers.role} worker {rank} did not take over weights {version}"
            ),
            range(receivers.size),
        )
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


class Meeting(NamedTuple):
    """Where the learner's rank 0 and all ranks of all engines meet to send and receive, and how many they are."""

    address: str
    port: int
    num_ranks: int


class DirectChannel(WeightChannel):
    """The student's weights go straight to the engines, sent and received at the same time (`weights.nccl`).

    Only the student's, and only to all rollout workers: other weights take the way of a `WeightChannel`.
    """

    def __init__(self, publish: Callable[[WeightKind, int], Awaitable[Publication]], timeout_s: float):
        super().__init__(publish, timeout_s)
        self.announcement: Publication | None = None  # what is sent, without values; set when both ends have met

    async def deliver(
        self,
        kind: WeightKind,
        version: int,
        receivers: Receivers,
        load: Callable[[Any, Publication], Awaitable[int]],
    ) -> None:
        """See `WeightChannel.deliver`."""
        if kind is not WeightKind.STUDENT:
            await super().deliver(kind, version, receivers, load)
            return
        assert self.announcement is not None
        announced = replace(self.announcement, version=version)
        await asyncio.gather(self._published(kind, version), self._load(announced, receivers, load))


@dataclass(slots=True)
class _Shared:
    """A publication and how many use it."""

    publication: asyncio.Future[Publication]
    num_users: int = 0
