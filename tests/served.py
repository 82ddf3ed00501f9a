"""What vLLM computes from exported folders, as `vllm serve` loads them; imported where vLLM may start."""

from collections.abc import Sequence


def served_logprobs(
    folder: str, adapter: str, tokens: Sequence[int], *, dtype: str = "float32"
) -> tuple[list[float], list[float]]:
    """Logprobs [T - 1, nats] of all tokens but the first, by a model folder, and with an adapter besides.

    Args:
        folder: an ordinary model.
        adapter: a PEFT folder with an adapter for a model of this shape, of rank 8 at most.
        tokens: [T]
        dtype: of the engine; the kernels with which vLLM 0.32 adds an adapter on a GPU take bfloat16 and float16 alone.
    """
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    engine = LLM(
        model=folder,
        dtype=dtype,
        max_model_len=64,
        enforce_eager=True,
        distributed_executor_backend="uni",
        enable_lora=True,
        max_lora_rank=8,
        skip_tokenizer_init=True,
        kv_cache_memory_bytes=2**27,
        disable_log_stats=True,
    )
    reading = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    both = []
    for request in (None, LoRARequest("adapter", 1, adapter)):
        (output,) = engine.generate([{"prompt_token_ids": list(tokens)}], reading, lora_request=request, use_tqdm=False)
        both.append([entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], tokens[1:], strict=True)])
    return both[0], both[1]
