"""An asynchronous vLLM engine whose weights can be replaced in place; what it computes is its role's business.

Imported by a worker when it starts, never by the driver: vLLM takes seconds to import. Tensor parallelism, an engine
on several GPUs, was never run on a GPU so far.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from sdft_ray.config import ModelConfig
from sdft_ray.errors import ModelError
from sdft_ray.inference.engine_process import begin_engine
from sdft_ray.inference.failures import CANNOT_START, EnginePlace, death_error, family, start_error
from sdft_ray.inference.weight_loading import WeightLoading
from sdft_ray.records import Bucket, Publication
from sdft_ray.weights.channel import Meeting, Receiver

# vLLM 0.32's CPU worker was never seen to end by itself, however long one waited: it is killed after this.
SHUTDOWN_GRACE_S = 1.0

DEATH_CHECK_S = 1.0

T = TypeVar("T")


class InferenceEngine:
    """Base of the engines: how one is started, given new weights and ended."""

    remedy: str  # what a run can do without this engine

    def __init__(
        self,
        *,
        worker: str,
        log: Path,
        extension: type[WeightLoading],
        model_path: str,
        model: ModelConfig,
        max_model_len: int,
        tensor_parallel_size: int,
        shares_device: bool,
        sleeps: bool,
        gpu_memory_share: float,
        kv_cache_gib: float,
        receiver: Receiver,
        maps_weights: bool = False,
        **arguments: Any,
    ):
        """Starts the engine's processes; returns when they are up.

        Args:
            worker: whose engine it is, such as "rollout worker 0".
            log: that worker's log file, and that of the engine's processes.
            extension: methods that the engine's processes gain.
            model_path: local model folder.
            model: dtype of the weights.
            max_model_len: tokens of the longest sequence.
            tensor_parallel_size: GPUs of the engine; 1 on a CPU.
            shares_device: whether other workers use the same memory.
            sleeps: whether it may be asked to sleep.
            gpu_memory_share: of each of its GPUs, what the engine may fill.
            kv_cache_gib: of an engine that shares its device.
            receiver: its end of the channel that brings new weights.
            maps_weights: whether published ones may be used where they lie: in host memory that does not change.
            arguments: of vLLM, by the names of `AsyncEngineArgs`: what the role alone needs.

        Raises:
            EngineError: vLLM cannot start it.
        """
        self._request_ids = itertools.count()
        self._receiver = receiver
        self._maps_weights = maps_weights
        self._is_asleep = False
        self._place = EnginePlace(worker, log, log.stat().st_size, model_path, self.remedy)
        self._llm = self._start(
            sleeps,
            model=model_path,
            dtype=model.dtype.name.lower(),
            max_model_len=max_model_len,
            tensor_parallel_size=tensor_parallel_size,
            # Named because vLLM would start Ray actors of its own inside our placement group.
            distributed_executor_backend="mp" if tensor_parallel_size > 1 else "uni",
            gpu_memory_utilization=gpu_memory_share,
            # Where memory is shared, measuring what is free would measure the neighbours. (The environment variable
            # VLLM_CPU_KVCACHE_SPACE takes whole GiB only.)
            kv_cache_memory_bytes=int(kv_cache_gib * 2**30) if shares_device else None,
            worker_extension_cls=f"{extension.__module__}.{extension.__qualname__}",
            **(receiver.engine_arguments() | arguments),
        )

    def _start(self, sleeps: bool, **arguments: Any) -> AsyncLLM:
        begin_engine()
        try:
            settings = AsyncEngineArgs(
                enforce_eager=current_platform.is_cpu(),
                enable_sleep_mode=sleeps and not current_platform.is_cpu(),  # whose worker frees nothing itself
                skip_tokenizer_init=True,
                disable_log_stats=True,
                **arguments,
            )
            if current_platform.is_cpu() and settings.create_model_config().is_hybrid:
                # vLLM 0.32 finds the state behind a prefix again only where prompts are read in parts, which ends in
                # an IndexError of its CPU kernels.
                settings.enable_prefix_caching = False
            return AsyncLLM.from_engine_args(settings)
        except CANNOT_START as error:
            raise start_error(self._place, error) from error

    async def release_start_up_memory(self) -> None:
        """See `WeightLoading.release_start_up_memory`."""
        await self._on_ranks(WeightLoading.release_start_up_memory)

    async def peak_gpu_memory_gib(self) -> float:
        """The most GPU memory [GiB] that torch has reserved in any of the engine's processes."""
        return max(await self._on_ranks(WeightLoading.peak_gpu_memory_gib))

    async def load_weights(self, publication: Publication) -> None:
        """Replaces all weights; nothing may be computed meanwhile.

        Raises:
            ModelError: the engine has a parameter that the publication lacks.
        """
        await self._receiver.load(self, publication)

    async def sleep(self) -> None:
        """Gives memory to others: open requests end first, then no request is computed until `wake`.

        On a GPU the weights go to pinned host memory, and the memory of the KV cache is free. On a CPU only the latter.
        """
        self._is_asleep = True
        await self._answered(self._llm.sleep(level=1, mode="wait"))
        await self._on_ranks(WeightLoading.release_cache)

    async def wake(self) -> None:
        """Takes memory back, with the same weights and an empty cache; at once where it does not sleep."""
        if self._is_asleep:
            await self._answered(self._llm.wake_up())
            self._is_asleep = False

    async def connect(self, meeting: Meeting, first_rank: int) -> None:
        """Brings this engine's ranks, from `first_rank` on, to a learner that pushes weights."""
        await self._receiver.connect(self, meeting, first_rank)

    async def load_buckets(self, buckets: AsyncGenerator[Bucket, None]) -> None:
        """See `LoadingEngine.load_buckets`."""
        await self._on_ranks(WeightLoading.begin_weights, self._maps_weights)
        async with aclosing(buckets):
            async for bucket in buckets:
                entries = [(entry.name, entry.shape, entry.offset) for entry in bucket.entries]
                await self._on_ranks(WeightLoading.load_bucket, tuple(bucket.array), bucket.dtype, entries)
        missing = sorted(set().union(*await self._on_ranks(WeightLoading.finish_weights)))
        if missing:
            some = ", ".join(missing[:3])
            raise ModelError(
                f"{self._place.worker}: vLLM's engine for {family(self._place.model_path)} cannot take over new "
                f"weights: a publication does not reach {len(missing)} of its parameters, such as {some}; "
                f"{self.remedy}."
            )

    async def call_vllm(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """See `LoadingEngine.call_vllm`."""
        return await self._answered(call(self._llm))

    def _next_request_id(self) -> str:
        return str(next(self._request_ids))

    async def _on_ranks(self, method: Callable[..., T], *args: Any) -> list[T]:
        """Calls a method of the extension in every tensor parallel rank; answers in rank order."""
        return await self._answered(self._llm.collective_rpc(method.__name__, args=args))

    async def _answered(self, call: Awaitable[T]) -> T:
        """Waits for a call to the engine's process; vLLM fails open requests when that dies, but not open calls.

        Raises:
            EngineError: the process died.
        """
        answer = asyncio.ensure_future(call)
        while not answer.done():
            await asyncio.wait([answer], timeout=DEATH_CHECK_S)
            if self._llm.errored and not answer.done():
                answer.cancel()
                raise death_error(self._place)
        try:
            return answer.result()
        except EngineDeadError as error:
            raise death_error(self._place) from error

    async def _outputs(self, requested: AsyncIterator[T]) -> AsyncIterator[T]:
        """What a request gives.

        Raises:
            EngineError: the process died.
        """
        try:
            async for output in requested:
                yield output
        except EngineDeadError as error:
            raise death_error(self._place) from error

    def close(self) -> None:
        """Ends the engine's processes."""
        self._llm.shutdown(timeout=SHUTDOWN_GRACE_S)
