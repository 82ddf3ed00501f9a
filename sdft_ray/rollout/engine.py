"""One vLLM engine: token ids in, token ids out. vLLM is called here and in weight_loading, nowhere else.

Imported by a rollout worker when it starts, never by the driver: vLLM takes seconds to import.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from sdft_ray.config import ModelConfig, RolloutConfig
from sdft_ray.records import Bucket
from sdft_ray.rollout.weight_loading import WeightLoading

# vLLM 0.32's CPU worker was never seen to end by itself, however long one waited: it is killed after this.
SHUTDOWN_GRACE_S = 1.0

DEATH_CHECK_S = 1.0


class Engine:
    """An asynchronous vLLM engine whose weights can be replaced in place."""

    def __init__(
        self,
        *,
        model_path: str,
        model: ModelConfig,
        rollout: RolloutConfig,
        stop_token_ids: Sequence[int],
        max_model_len: int,
        tensor_parallel_size: int,
        shares_device: bool,
        seed: int,
    ):
        self._stop_token_ids = list(stop_token_ids)
        self._request_ids = itertools.count()
        on_cpu = current_platform.is_cpu()
        self._llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=model_path,
                dtype=model.dtype.name.lower(),
                seed=seed,
                max_model_len=max_model_len,
                max_num_seqs=rollout.max_concurrent,
                tensor_parallel_size=tensor_parallel_size,
                # Named because vLLM would start Ray actors of its own inside our placement group.
                distributed_executor_backend="mp" if tensor_parallel_size > 1 else "uni",
                gpu_memory_utilization=rollout.gpu_memory_share,
                # Where memory is shared, measuring what is free would measure the neighbours. (The environment variable
                # VLLM_CPU_KVCACHE_SPACE takes whole GiB only.)
                kv_cache_memory_bytes=int(rollout.kv_cache_gib * 2**30) if shares_device else None,
                enforce_eager=on_cpu,
                enable_prefix_caching=True,
                skip_tokenizer_init=True,
                generation_config="vllm",  # the model folder's own would change the sampling
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                worker_extension_cls=f"{WeightLoading.__module__}.{WeightLoading.__qualname__}",
            )
        )

    async def drop_padded_rows(self, num_tokens: int) -> None:
        """See `WeightLoading.drop_padded_rows`."""
        await self._answered(self._llm.collective_rpc("drop_padded_rows", args=(num_tokens,)))

    async def generate(
        self,
        prompt_tokens: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int | None = None,
    ) -> AsyncIterator[tuple[list[int], list[float]]]:
        """Yields twice at most: the first token as soon as it is there, then all others.

        Args:
            prompt_tokens: [P]
            max_new_tokens: the completion is cut there.
            temperature: 0 is greedy.
            seed: makes the completion reproducible whatever else is in the batch, up to rounding.

        Yields:
            New token ids, a stop token among them, and their logprobs [nats] in the distribution sampled from
            (that of temperature 1 for greedy completions).
        """
        params = SamplingParams(
            temperature=temperature,
            seed=seed,
            max_tokens=max_new_tokens,
            stop_token_ids=self._stop_token_ids,
            ignore_eos=True,  # the ids above stop a completion, not what vLLM reads from the model folder
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            stream_interval=max_new_tokens,
        )
        async for output in self._requested(prompt_tokens, params):
            completion = output.outputs[0]
            yield list(completion.token_ids), list(completion.logprobs.logprobs)

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> list[float]:
        """Logprobs [T, nats] of a given completion at temperature 1.

        vLLM recomputes such a prompt in full: a cached prefix has no logits.
        """
        params = SamplingParams(
            max_tokens=1,  # vLLM has no request that samples nothing
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        (output,) = [output async for output in self._requested([*prompt_tokens, *completion_tokens], params)]
        return output.prompt_logprobs.logprobs[-len(completion_tokens) :]

    def _requested(self, tokens: Sequence[int], params: SamplingParams) -> AsyncIterator[RequestOutput]:
        return self._llm.generate(tokens_input(list(tokens)), params, request_id=str(next(self._request_ids)))

    async def begin_weights(self) -> None:
        """Pauses generation and opens the model for new weights.

        Open completions are kept. What they and the prefix cache have computed is dropped, so after the load
        their keys and values are computed again, with the new weights.
        """
        await self._answered(self._llm.pause_generation(mode="keep", clear_cache=True))
        await self._answered(self._llm.collective_rpc("begin_weights"))

    async def load_bucket(self, bucket: Bucket, path: str) -> None:
        """Loads one bucket, whose array lies in the file at `path`."""
        entries = [(entry.name, entry.shape, entry.offset) for entry in bucket.entries]
        await self._answered(self._llm.collective_rpc("load_bucket", args=(path, bucket.dtype, entries)))

    async def finish_weights(self) -> None:
        """Closes the model and goes on generating."""
        await self._answered(self._llm.collective_rpc("finish_weights"))
        await self._answered(self._llm.resume_generation())

    async def _answered(self, call: Awaitable[Any]) -> None:
        """Waits for a call to the engine's process; vLLM fails open requests when that dies, but not open calls.

        Raises:
            EngineDeadError: the process died.
        """
        answer = asyncio.ensure_future(call)
        while not answer.done():
            await asyncio.wait([answer], timeout=DEATH_CHECK_S)
            if self._llm.errored and not answer.done():
                answer.cancel()
                raise self._llm.dead_error
        answer.result()

    def close(self) -> None:
        """Ends the engine's processes."""
        self._llm.shutdown(timeout=SHUTDOWN_GRACE_S)
