"""The channel from GPU to GPU: the student's weights to the rollout engines, by vLLM's own NCCL transfer engine.

NEVER RUN ON A GPU so far: the tests hold every call against vLLM's classes, with fakes of NCCL and of streams. The only
file that uses `vllm.distributed.weight_transfer`, whose trainer side changes from release to release (here: 0.32).
vLLM is imported inside functions, since the driver imports its channel and has no use for vLLM.

Weights are pushed: both ends have to be called at the same time. vLLM lets the learner's end call the engines. Here the
driver calls both, as for every other channel, so the learner's end is given a client that makes no call. Rank 0 of the
NCCL group is the learner's rank 0; the ranks of the engines follow, engine after engine.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist

from sdft_ray.records import Bucket, Publication
from sdft_ray.tensors import dtype_name
from sdft_ray.weights.buckets import plan_buckets, views
from sdft_ray.weights.channel import (
    Ends,
    LoadingEngine,
    Meeting,
    RankWeights,
    Receiver,
    Sender,
    WeightChannel,
    WeightKind,
    Workers,
)
from sdft_ray.weights.fragments import assemble, fragments_in, index_by_name
from sdft_ray.workers.deadlines import Pace, Work

MEET = Work("connect", pace=Pace.START)


class NcclSender(Sender):
    """Sends the student's parameters; rank 0 alone is in the NCCL group.

    Parameters only: what NCCL carries has one dtype. The engines have the model folder's buffers, which are the same.
    """

    def __init__(self, weights: RankWeights, *, transfer: Any = None, cuda: Any = torch.cuda):
        """Takes the weights.

        Args:
            weights: of this rank.
            transfer: vLLM's class for the trainer's side; None imports it.
            cuda: the streams of this rank's GPU.
        """
        self._weights = weights
        self._plan = plan_buckets(weights.shapes)
        self._transfer_class = transfer
        self._cuda = cuda

    def connect(self, meeting: Meeting) -> Publication:
        """See `Sender`; returns when all ranks of the NCCL group have joined it."""
        from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        sender = self

        class Source(WeightSource):
            """The parameters as vLLM asks for them."""

            def metadata(self) -> list[ParamMeta]:
                entries = [entry for plan in sender._plan for entry in plan]
                return [ParamMeta(entry.name, sender._weights.dtype, entry.shape) for entry in entries]

            def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
                return on_one_stream(sender._parameters(), sender._maker, sender._cuda)

        transfer = self._transfer_class or NCCLTrainerWeightTransferEngine
        self._transfer = transfer.trainer_init(
            NCCLTrainerInitInfo(
                rank=dist.get_rank(),
                master_address=meeting.address,
                master_port=meeting.port,
                world_size=meeting.num_ranks,
                packed=True,
            ),
            client=_NoCalls(),
            source=Source(),
        )
        return self._announcement(version=0)

    def publish(self, kind: WeightKind, version: int) -> Publication | None:
        """See `Sender`; returns when the engines have received all values.

        vLLM reads on streams of its own, which wait for nothing that this process has queued: the optimizer's step
        among it. So it is waited for.
        """
        self._cuda.synchronize()
        self._maker = self._cuda.current_stream()
        self._transfer.send_weights()
        return self._announcement(version) if dist.get_rank() == 0 else None

    def _announcement(self, version: int) -> Publication:
        """What is sent, without its values."""
        name = dtype_name(self._weights.dtype)
        return Publication(
            version=version, buckets=tuple(Bucket(dtype=name, entries=plan, array=None) for plan in self._plan)
        )

    def _parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The current values, in the order they are sent in; a collective of the learner's ranks."""
        index = index_by_name(self._weights.fragments(WeightKind.STUDENT))
        for entries in self._plan:
            flat = assemble(entries, fragments_in(entries, index), self._weights.device).to(self._weights.dtype)
            yield from views(entries, flat)


class NcclReceiver(Receiver):
    """An engine that receives all weights while the learner sends them."""

    def engine_arguments(self) -> dict[str, Any]:
        """See `Receiver`."""
        from vllm.config.weight_transfer import WeightTransferConfig

        return {"weight_transfer_config": WeightTransferConfig(backend="nccl")}

    async def connect(self, engine: LoadingEngine, meeting: Meeting, first_rank: int) -> None:
        """See `Receiver`."""
        request = join_request(meeting, first_rank)
        await engine.call_vllm(lambda llm: llm.init_weight_transfer_engine(request))

    async def load(self, engine: LoadingEngine, publication: Publication) -> None:
        """See `Receiver`."""
        request = update_request(publication)
        await engine.call_vllm(lambda llm: llm.start_weight_update())
        await engine.call_vllm(lambda llm: llm.update_weights(request))
        await engine.call_vllm(lambda llm: llm.finish_weight_update())


class NcclChannel(WeightChannel):
    """The driver's end: the student is sent while all engines receive. Other weights are pulled, as by the base."""

    def __init__(self, publish: Callable[[WeightKind, int], Awaitable[Publication]], timeout_s: float):
        super().__init__(publish, timeout_s)
        self.announcement: Publication | None = None  # what is sent, without values; set when both ends have met

    def pushes(self, kind: WeightKind) -> bool:
        """See `WeightChannel`."""
        return kind is WeightKind.STUDENT

    async def connect(self, learner: Workers, engines: Workers, ranks_per_engine: int) -> None:
        """See `WeightChannel`."""
        address, port = await learner.on_first(lambda actor: actor.rendezvous.remote(), MEET)
        meeting = Meeting(address, port, num_ranks=1 + ranks_per_engine * engines.size)
        first_ranks = [1 + ranks_per_engine * rank for rank in range(engines.size)]
        async with asyncio.TaskGroup() as tasks:
            announcements = tasks.create_task(learner.on_all(lambda actor: actor.connect.remote(meeting), MEET))
            tasks.create_task(
                engines.on_each(
                    lambda actor, first_rank: actor.connect.remote(meeting, first_rank),
                    first_ranks,
                    [MEET] * engines.size,
                )
            )
        self.announcement = announcements.result()[0]

    async def deliver(
        self,
        kind: WeightKind,
        version: int,
        receivers: Workers,
        load: Callable[[Any, Publication], Awaitable[int]],
    ) -> None:
        """See `WeightChannel`."""
        if not self.pushes(kind):
            await super().deliver(kind, version, receivers, load)
            return
        assert self.announcement is not None
        announced = replace(self.announcement, version=version)
        await asyncio.gather(self._published(kind, version), self._load(announced, receivers, load))


ENDS = Ends(NcclSender, NcclReceiver, NcclChannel)


def join_request(meeting: Meeting, first_rank: int) -> Any:
    """Brings the ranks of one engine to the meeting, as `first_rank` and following."""
    from vllm.distributed.weight_transfer.base import WeightTransferInitRequest
    from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo, worker_init_payload

    info = NCCLWeightTransferInitInfo(
        master_address=meeting.address,
        master_port=meeting.port,
        rank_offset=first_rank,
        world_size=meeting.num_ranks,
        packed=True,
    )
    return WeightTransferInitRequest(init_info=worker_init_payload(info))


def update_request(publication: Publication) -> Any:
    """Makes an engine receive the parameters of a publication, all in one call, in the order they are sent in."""
    from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferUpdateInfo

    parameters = [(bucket.dtype, entry) for bucket in publication.buckets for entry in bucket.entries]
    info = NCCLWeightTransferUpdateInfo(
        names=[entry.name for _, entry in parameters],
        dtype_names=[dtype for dtype, _ in parameters],
        shapes=[list(entry.shape) for _, entry in parameters],
    )
    return WeightTransferUpdateRequest(update_info=asdict(info))


def on_one_stream(
    parameters: Iterator[tuple[str, torch.Tensor]], maker: Any, cuda: Any = torch.cuda
) -> Iterator[tuple[str, torch.Tensor]]:
    """Makes the parameters on the stream `maker`, whichever stream asks for the next.

    vLLM 0.32 asks from one stream for each of its buffers, in turn, and a bucket may go into two of them. Such a
    reader waits until the bucket is made. The memory of the bucket is not used again before the last reader is done.
    """
    while True:
        with cuda.stream(maker):
            item = next(parameters, None)
        if item is None:
            return
        reader = cuda.current_stream()
        reader.wait_stream(maker)
        item[1].record_stream(reader)
        yield item
        del item  # or a bucket would live on while the next is made


class _NoCalls:
    """A `VLLMWeightSyncClient` for a learner whose driver makes the calls."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        pass

    def start_weight_update(self) -> None:
        pass

    def update_weights(self, update_info: Any) -> None:
        pass

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        pass
