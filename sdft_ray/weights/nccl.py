"""The student's weights from the learner's GPU to those of the rollout engines, by vLLM's own NCCL transfer engine.

NEVER RUN ON A GPU so far: the tests hold every call against vLLM's classes, with fakes of NCCL and of streams. The only
file that uses `vllm.distributed.weight_transfer`, whose trainer side changes from release to release (here: 0.32).

vLLM lets the learner's end call the engines. Here the driver calls both ends at once, as for every other channel, so
the learner's end is given a client that makes no call. Rank 0 of the NCCL group is the learner's rank 0; the ranks of
the engines follow, engine after engine.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    WeightSource,
    WeightTransferInitRequest,
    WeightTransferUpdateRequest,
)
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo, worker_init_payload
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerInitInfo,
    NCCLTrainerWeightTransferEngine,
    NCCLWeightTransferUpdateInfo,
)

from sdft_ray.records import ParameterEntry, Publication
from sdft_ray.weights.channel import Meeting


def transfer_config() -> WeightTransferConfig:
    """What an engine has to be started with."""
    return WeightTransferConfig(backend="nccl")


def join_request(meeting: Meeting, first_rank: int) -> WeightTransferInitRequest:
    """Brings the ranks of one engine to the meeting, as `first_rank` and following."""
    info = NCCLWeightTransferInitInfo(
        master_address=meeting.address,
        master_port=meeting.port,
        rank_offset=first_rank,
        world_size=meeting.num_ranks,
        packed=True,
    )
    return WeightTransferInitRequest(init_info=worker_init_payload(info))


def update_request(publication: Publication) -> WeightTransferUpdateRequest:
    """Makes an engine receive the parameters of a publication, all in one call, in the order they are sent in."""
    parameters = [(bucket.dtype, entry) for bucket in publication.buckets for entry in bucket.entries]
    info = NCCLWeightTransferUpdateInfo(
        names=[entry.name for _, entry in parameters],
        dtype_names=[dtype for dtype, _ in parameters],
        shapes=[list(entry.shape) for _, entry in parameters],
    )
    return WeightTransferUpdateRequest(update_info=asdict(info))


class LearnerEnd:
    """Sends; every learner rank has one and makes the same calls, rank 0 alone is in the NCCL group."""

    def __init__(
        self,
        rank: int,
        meeting: Meeting,
        entries: list[ParameterEntry],
        dtype: torch.dtype,
        parameters: Callable[[], Iterator[tuple[str, torch.Tensor]]],
        transfer: Any = NCCLTrainerWeightTransferEngine,
        cuda: Any = torch.cuda,
    ):
        """Returns when all ranks of the NCCL group have joined it.

        Args:
            rank: of this learner rank.
            meeting: of all.
            entries: of the parameters, in the order they are sent in.
            dtype: they are sent in.
            parameters: makes their values, anew at every call; a collective of the learner's ranks.
            transfer: vLLM's engine for the trainer's side.
            cuda: the streams of this rank's GPU.
        """
        self._cuda = cuda

        def in_order() -> Iterator[tuple[str, torch.Tensor]]:
            return on_one_stream(parameters(), self._maker, cuda)

        self._transfer = transfer.trainer_init(
            NCCLTrainerInitInfo(
                rank=rank,
                master_address=meeting.address,
                master_port=meeting.port,
                world_size=meeting.num_ranks,
                packed=True,
            ),
            client=_NoCalls(),
            source=_Source([ParamMeta(entry.name, dtype, entry.shape) for entry in entries], in_order),
        )

    def send(self) -> None:
        """Sends the current values; returns when the engines have received them.

        vLLM reads on streams of its own, which wait for nothing that this process has queued: the optimizer's step
        among it. So it is waited for.
        """
        self._cuda.synchronize()
        self._maker = self._cuda.current_stream()
        self._transfer.send_weights()


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


class _Source(WeightSource):
    """The parameters as vLLM asks for them."""

    def __init__(self, metadata: list[ParamMeta], parameters: Callable[[], Iterator[tuple[str, torch.Tensor]]]):
        self._metadata = metadata
        self._parameters = parameters

    def metadata(self) -> list[ParamMeta]:
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._parameters()


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
