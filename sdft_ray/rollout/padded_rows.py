"""What the engine's own processes do with rows of the head that stand for no token."""

from vllm.model_executor.layers.logits_processor import LogitsProcessor

from sdft_ray.errors import ModelError
from sdft_ray.inference.weight_loading import WeightLoading


class PaddedRows(WeightLoading):
    """Methods that vLLM's worker gains; each runs in every tensor-parallel rank."""

    def drop_padded_rows(self, num_tokens: int) -> None:
        """Takes the head's rows from `num_tokens` on out of every distribution.

        Sampled logprobs are then those of the learner, which leaves the same rows out of its softmax, and no
        completion can contain an id that the tokenizer lacks.
        """
        heads = [module for module in self._model().modules() if isinstance(module, LogitsProcessor)]
        if not heads:
            raise ModelError(f"{type(self._model()).__name__} has no LogitsProcessor to cut to {num_tokens} tokens")
        for head in heads:
            head.org_vocab_size = min(head.org_vocab_size, num_tokens)
