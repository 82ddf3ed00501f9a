"""One vLLM engine that reads: token ids in, hidden states out. The teacher's calls of vLLM are here and in vllm_rows.

Imported by a teacher worker when it starts, never by the driver: vLLM takes seconds to import.
Legend: P teacher prompt tokens, T completion tokens, H hidden size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from vllm.config import PoolerConfig
from vllm.inputs import tokens_input

from sdft_ray.config import TeacherConfig
from sdft_ray.inference.engine import InferenceEngine
from sdft_ray.teacher.vllm_rows import TASK, CompletionRows, request_rows


class ReadingEngine(InferenceEngine):
    """A causal model without its head; a sequence longer than one forward pass is read in pieces."""

    remedy = "set teacher.backend=TRANSFORMERS"

    def __init__(self, *, teacher: TeacherConfig, **place: Any):
        """`place` is what `InferenceEngine` asks for besides: the model and where it computes."""
        super().__init__(
            extension=CompletionRows,
            runner="pooling",
            convert="embed",
            pooler_config=PoolerConfig(task=TASK),
            max_num_batched_tokens=teacher.max_tokens_per_forward,
            gpu_memory_share=teacher.gpu_memory_share,
            kv_cache_gib=teacher.kv_cache_gib,
            enable_prefix_caching=False,  # a cached prefix has no hidden states, so vLLM would not read it from there
            **place,
        )

    async def keep_completion_rows(self) -> None:
        """Has to be called once, before `hidden_states`."""
        await self._on_ranks(CompletionRows.keep_last_rows)

    async def hidden_states(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> torch.Tensor:
        """The hidden states after the final norm that predict the completion, [T, H] in the model's dtype.

        Only they leave the engine's process, not those of the prompt.

        Args:
            prompt_tokens: [P]
            completion_tokens: [T]
        """
        tokens = [*prompt_tokens, *completion_tokens[:-1]]  # the last token predicts none of the completion
        outputs = self._llm.encode(
            tokens_input(tokens), request_rows(len(completion_tokens)), request_id=self._next_request_id()
        )
        (hidden,) = [output.outputs.data async for output in self._outputs(outputs)]
        return hidden
