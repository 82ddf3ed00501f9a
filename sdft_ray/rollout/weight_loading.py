"""What the engine's own processes do with new weights: a class that vLLM adds to its worker.

The engine is a child process of the rollout actor and knows no Ray, so the actor hands it one bucket at a
time as an anonymous file in memory. The three steps are those of vLLM's own weight transfer engines (`start`,
`update`, `finish`) around its layer-wise reload; a plain `model.load_weights` fails on a CPU, where weights
are repacked after loading.
"""

from typing import Any

import numpy as np
import torch
from vllm.config import set_current_vllm_config
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from sdft_ray.errors import ModelError
from sdft_ray.records import Bucket, ParameterEntry
from sdft_ray.weights.buckets import unpack

FILE_DTYPE = {"float32": np.float32, "bfloat16": np.uint16}


class WeightLoading:
    """Methods that vLLM's worker gains; each runs in every tensor-parallel rank.

    On a GPU the same path copies from the mapped file to the device, layer by layer; not run there yet.
    """

    model_runner: Any
    vllm_config: Any

    def drop_padded_rows(self, num_tokens: int) -> None:
        """Takes the head's rows from `num_tokens` on out of every distribution: they stand for no token.

        Sampled logprobs are then those of the learner, which leaves the same rows out of its softmax, and no
        completion can contain an id that the tokenizer lacks.
        """
        heads = [module for module in self._model().modules() if isinstance(module, LogitsProcessor)]
        if not heads:
            raise ModelError(f"{type(self._model()).__name__} has no LogitsProcessor to cut to {num_tokens} tokens")
        for head in heads:
            head.org_vocab_size = min(head.org_vocab_size, num_tokens)

    def begin_weights(self) -> None:
        """Opens the model for new weights; nothing may be computed until `finish_weights`."""
        self._loaded: set[str] = set()
        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(self._model())

    def load_bucket(self, path: str, dtype: str, entries: list[tuple[str, list[int], int]]) -> None:
        """Loads the parameters of one bucket, (name, shape, offset in elements), from the file at `path`.

        Views of the file may be held back until their layer is complete. They keep the mapping alive, so the
        file may go as soon as this returns.
        """
        bucket = Bucket(
            dtype=dtype,
            entries=tuple(ParameterEntry(name=name, shape=tuple(shape), offset=at) for name, shape, at in entries),
            array=path,
        )
        array = np.memmap(path, dtype=FILE_DTYPE[dtype], mode="r")
        with set_current_vllm_config(self.vllm_config), torch.no_grad():
            self._loaded |= self._model().load_weights(unpack(bucket, array))

    def finish_weights(self) -> None:
        """Closes the model again.

        Raises:
            ModelError: a parameter got no new weights.
        """
        model = self._model()
        with set_current_vllm_config(self.vllm_config), torch.no_grad():
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            for name, head in model.named_modules():
                if isinstance(head, ParallelLMHead) and f"{name}.weight" not in self._loaded:
                    # Tied to the embedding, through which alone vLLM 0.32 reloads the shared parameter. On a
                    # CPU the head computes with a repacked copy of it, which would stay the old one.
                    head.quant_method.process_weights_after_loading(head)
        torch.accelerator.synchronize()  # copies to a device may still be under way
        missing = {name for name, _ in model.named_parameters()} - self._loaded
        if missing:
            raise ModelError(f"the publication holds no weights for {', '.join(sorted(missing))}")

    def _model(self) -> Any:
        return self.model_runner.get_model()
