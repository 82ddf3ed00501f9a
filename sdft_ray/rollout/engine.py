"""One vLLM engine that samples: token ids in, token ids out.

Imported by a rollout worker when it starts, never by the driver: vLLM takes seconds to import.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from sdft_ray.config import RolloutConfig
from sdft_ray.inference.engine import InferenceEngine
from sdft_ray.records import SampleRequest
from sdft_ray.rollout.padded_rows import PaddedRows

PREFILL_TOKENS = 1024  # read in one forward pass on a CPU
# Tokens of a block of the KV cache on a CPU, where vLLM takes 128: a common prefix is shared in whole blocks, and its
# kernels want a multiple of 32. With 8 prompts of 280 tokens whose first 250 are alike, sampling took 1.9 s, not 2.8 s.
CPU_BLOCK_TOKENS = 32


class SamplingEngine(InferenceEngine):
    """Many completions at once, which pause while weights are loaded and then go on."""

    remedy = (
        "take another model, or a method that samples nothing (sft, dft, cpt) with evaluation.prior='' "
        "evaluation.general='' and no evaluation.sets, which starts no engine"
    )

    def __init__(self, *, rollout: RolloutConfig, stop_token_ids: Sequence[int], seed: int, **place: Any):
        """`place` is what `InferenceEngine` asks for besides: the model and where it computes."""
        if current_platform.is_cpu():
            # vLLM 0.32 takes back what a request's own seed has drawn for a prompt read in part, which the CPU's random
            # numbers refuse: the engine would die. So prompts are read whole.
            place |= {
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(PREFILL_TOKENS, place["max_model_len"]),
                "block_size": CPU_BLOCK_TOKENS,
            }
        super().__init__(
            extension=PaddedRows,
            seed=seed,
            max_num_seqs=rollout.max_concurrent,
            gpu_memory_share=rollout.gpu_memory_share,
            kv_cache_gib=rollout.kv_cache_gib,
            enable_prefix_caching=True,
            # Planned ahead, what shares a step depends on whether the last one has already ended.
            async_scheduling=None if rollout.async_scheduling else False,
            generation_config="vllm",  # the model folder's own would change the sampling
            logprobs_mode="processed_logprobs",
            # The learner adds up its logits in fp32. In bf16 the sampler's would be rounded to three digits besides.
            hf_overrides={"head_dtype": "float32"},
            **place,
        )
        self._stop_token_ids = list(stop_token_ids)

    async def drop_padded_rows(self, num_tokens: int) -> None:
        """See `PaddedRows.drop_padded_rows`."""
        await self._on_ranks(PaddedRows.drop_padded_rows, num_tokens)

    async def generate(
        self,
        prompt_tokens: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        seed: int | None = None,
        with_logprobs: bool = True,
    ) -> AsyncIterator[tuple[list[int], list[float]]]:
        """Yields twice at most: the first token as soon as it is there, then all others.

        Args:
            prompt_tokens: [P]
            max_new_tokens: the completion is cut there.
            temperature: 0 is greedy.
            top_p: share of the probability mass that is sampled from.
            seed: makes the completion reproducible whatever else is in the batch, up to rounding.
            with_logprobs: False spares the engine passes over the whole vocabulary for every token.

        Yields:
            New token ids, a stop token among them, and their logprobs [nats] in the distribution sampled from
            (that of temperature 1 for greedy completions); without logprobs an empty list in their place.
        """
        params = self._sampling(
            with_logprobs=with_logprobs,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            max_tokens=max_new_tokens,
            output_kind=RequestOutputKind.DELTA,
            stream_interval=max_new_tokens,
        )
        async for output in self._requested(prompt_tokens, params):
            yield _completion(output)

    async def generate_together(
        self, requests: Sequence[SampleRequest], *, with_logprobs: bool
    ) -> list[tuple[list[int], list[float]]]:
        """The completions of all requests, as `generate` yields them, computed as `_together` says."""
        params = [
            self._sampling(
                with_logprobs=with_logprobs,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
                max_tokens=request.max_new_tokens,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for request in requests
        ]
        outputs = await self._together([request.prompt_tokens for request in requests], params)
        return [_completion(output) for output in outputs]

    async def logprobs(
        self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]
    ) -> tuple[list[float], list[int]]:
        """Logprobs [T, nats] of a given completion at temperature 1, and each token's rank [T], 1 for the likeliest.

        vLLM recomputes such a prompt in full: a cached prefix has no logits.
        """
        sequence = [*prompt_tokens, *completion_tokens]
        (output,) = [output async for output in self._requested(sequence, _reading())]
        return _read(output, len(completion_tokens))

    async def logprobs_together(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[tuple[list[float], list[int]]]:
        """What `logprobs` gives for each prompt and completion, computed as `_together` says."""
        tokens = [[*prompt, *completion] for prompt, completion in sequences]
        outputs = await self._together(tokens, [_reading() for _ in tokens])
        return [_read(output, len(completion)) for output, (_, completion) in zip(outputs, sequences, strict=True)]

    def _sampling(self, *, with_logprobs: bool, **params: Any) -> SamplingParams:
        return SamplingParams(
            stop_token_ids=self._stop_token_ids,
            ignore_eos=True,  # the ids above stop a completion, not what vLLM reads from the model folder
            logprobs=0 if with_logprobs else None,
            flat_logprobs=True,
            detokenize=False,
            **params,
        )

    def _requested(self, tokens: Sequence[int], params: SamplingParams) -> AsyncIterator[RequestOutput]:
        return self._outputs(self._llm.generate(tokens_input(list(tokens)), params, request_id=self._next_request_id()))

    async def _together(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> list[RequestOutput]:
        """The last output of every request; nothing else may be asked meanwhile.

        The engine takes them up between two steps, with empty caches. So what shares a step depends on the requests and
        their order alone.
        """
        await self.pause()
        try:
            queues = [
                await self._answered(self._llm.add_request(self._next_request_id(), tokens_input(list(tokens)), each))
                for tokens, each in zip(prompts, params, strict=True)
            ]
        finally:
            await self.resume()
        return [await self._answered(queue.get()) for queue in queues]

    async def pause(self) -> None:
        """Pauses generation, for new weights.

        Open completions are kept. What they and the prefix cache have computed is dropped, so after the load
        their keys and values are computed again, with the new weights.
        """
        await self._answered(self._llm.pause_generation(mode="keep", clear_cache=True))

    async def resume(self) -> None:
        """Goes on generating."""
        await self._answered(self._llm.resume_generation())


def _reading() -> SamplingParams:
    return SamplingParams(
        max_tokens=1,  # vLLM has no request that samples nothing
        prompt_logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completion(output: RequestOutput) -> tuple[list[int], list[float]]:
    completion = output.outputs[0]
    return list(completion.token_ids), [] if completion.logprobs is None else list(completion.logprobs.logprobs)


def _read(output: RequestOutput, num_tokens: int) -> tuple[list[float], list[int]]:
    return output.prompt_logprobs.logprobs[-num_tokens:], output.prompt_logprobs.ranks[-num_tokens:]
