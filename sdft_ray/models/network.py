"""The network as teacher and learner run it: packed sequences in, logits of the completion positions out."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdft_ray.config import ModelConfig, Precision

TORCH_DTYPE = {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16}


def load_network(path: str, precision: Precision, model: ModelConfig, **kwargs: Any) -> PreTrainedModel:
    """Loads a causal language model whose position ids, restarting at 0, separate packed sequences."""
    network = AutoModelForCausalLM.from_pretrained(
        path, dtype=TORCH_DTYPE[precision], attn_implementation=model.attention, **kwargs
    )
    network.config.use_cache = False
    return network


def completion_logits(
    network: Any, input_ids: torch.Tensor, position_ids: torch.Tensor, predictor_index: torch.Tensor
) -> torch.Tensor:
    """Logits at the positions that predict completion tokens; the head is not run on any other.

    Args:
        network: a causal language model, or the DeepSpeed engine around one.
        input_ids: [N] of several sequences one after the other, without padding.
        position_ids: [N] from 0 in every sequence. Without an attention mask transformers reads the restarts as
            borders and makes attention block-diagonal (a varlen kernel under flash attention).
        predictor_index: [T] positions whose logits are wanted.

    Returns:
        [T, V] in the network's dtype.
    """
    output = network(
        input_ids=input_ids[None],
        position_ids=position_ids[None],
        logits_to_keep=predictor_index,
        use_cache=False,
    )
    return output.logits[0]
