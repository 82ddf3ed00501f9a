"""What leaves the learner's GPU is what the optimizer has written, whichever stream or memory it goes through."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from sdft_ray.config import Channel
from sdft_ray.learner.checkpoint import load_rank
from sdft_ray.tensors import peak_gpu_memory_gib, synchronize
from sdft_ray.weights import nccl
from sdft_ray.weights.buckets import plan_buckets
from sdft_ray.weights.channel import Meeting, RankWeights, WeightKind, ends_of, open_publication
from sdft_ray.weights.fragments import Fragment, TeacherAverage
from sdft_ray.weights.nccl import NcclSender
from tests.learner.test_checkpoint import FakeEngine, save_rank
from tests.weights.publications import weights_of

GPU = torch.device("cuda")
LONG = 50_000_000  # cycles of a GPU: tens of milliseconds
NUM_PARAMETERS, ELEMENTS = 24, 4 * 2**20
CHUNK_BYTES = 100 * 2**20  # no multiple of a bucket: some go into two of vLLM's buffers


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class RecordingEnd:
    """vLLM's own packing, with a group that keeps what would be broadcast."""

    def __init__(self, source: Any):
        self._source = source
        self.chunks: list[torch.Tensor] = []

    @classmethod
    def trainer_init(cls, info: Any, *, client: Any, source: Any) -> "RecordingEnd":
        return cls(source)

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        torch.cuda._sleep(LONG // 10)  # a slow reader: memory that is used again too early is overwritten meanwhile
        self.chunks.append(tensor.clone())

    def send_weights(self) -> None:
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        self.chunks = []
        packed_nccl_broadcast_producer(iter(self._source), self, 0, lambda item: item[1], CHUNK_BYTES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_publication_over_nccl_holds_one_version_also_while_the_optimizer_is_still_queued(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    pytest.importorskip("vllm", reason="vLLM, which packs what is sent, is not installed")
    masters = {f"p{index}": torch.zeros(ELEMENTS, device=GPU) for index in range(NUM_PARAMETERS)}
    weights = RankWeights(
        shapes=tuple((name, (ELEMENTS,)) for name in masters),
        fragments=lambda kind: (Fragment(name, 0, values) for name, values in masters.items()),
        buffers=dict,
        dtype=dtype,
        device=GPU,
    )
    # Five parameters a bucket, in place of sixteen.
    monkeypatch.setattr(nccl, "plan_buckets", partial(plan_buckets, max_elements=5 * ELEMENTS))
    sender = NcclSender(weights, transfer=RecordingEnd)
    sender.connect(Meeting("", 0, 2))
    for version in range(1, 21):
        torch.cuda._sleep(LONG)
        for values in masters.values():
            values.fill_(version)
        sender.publish(WeightKind.STUDENT, version)
        torch.cuda.synchronize()
        sent = torch.cat([chunk.view(dtype) for chunk in sender._transfer.chunks])
        assert sent.numel() == NUM_PARAMETERS * ELEMENTS
        assert (sent == version).all(), f"publication {version} mixes versions"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_shared_memory_is_complete_when_it_is_published(dtype: torch.dtype) -> None:
    module = torch.nn.ModuleDict({f"p{index}": torch.nn.Linear(2048, 2048, bias=False) for index in range(8)}).to(GPU)
    sender = ends_of(Channel.SHARED_MEMORY).sender(weights_of(module, dtype, device=GPU))
    for version in (1, 2):
        torch.cuda._sleep(LONG)
        with torch.no_grad():
            for value in module.parameters():
                value.fill_(version)
        publication = sender.publish(WeightKind.STUDENT, version)
        assert publication is not None
        assert all((tensor == version).all() for _, tensor in open_publication(publication))


def test_resuming_takes_no_second_average_on_the_gpu(tmp_path: Path) -> None:
    engine = FakeEngine(torch.nn.Module())
    average = TeacherAverage([Fragment("p", 0, torch.ones(64 * 2**20, device=GPU))], ema_decay=0.9)
    save_rank(tmp_path, engine, average, rank=0)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    load_rank(tmp_path, engine, average, rank=0)
    assert torch.cuda.max_memory_allocated() - before < 2**20


def test_a_clock_behind_a_synchronisation_counts_what_was_queued() -> None:
    torch.zeros(1, device=GPU)
    started = time.perf_counter()
    torch.cuda._sleep(10 * LONG)
    queued_s = time.perf_counter() - started
    synchronize(GPU)
    assert time.perf_counter() - started > 10 * queued_s


def test_reserved_memory_is_reported() -> None:
    kept = torch.zeros(2**28, device=GPU)
    assert peak_gpu_memory_gib() >= kept.nbytes / 2**30
