"""Next-token distributions as logprobs: how they are made from logits, and sums over the vocabulary that stay finite.

Legend: T tokens, V vocabulary; `...` stands for any leading shape. Everything is in nats.

Sums are computed in fp32 at least (fp64 stays fp64). They take logprobs rather than probabilities, so a token of
probability 0 (logprob -inf, or -1e4 from a masked logit) adds exactly 0 to value and gradient instead of
0 * inf = NaN.
"""

import math

import torch
from torch import Tensor

# exp(-1e4) is exactly 0 in fp32 and fp64: a finite log 0 where an infinity would make gradients NaN.
LOG_OF_ZERO = -1e4


def log_softmax_at(logits: Tensor, temperature: float, num_vocab: int) -> Tensor:
    """The logprobs a sampler at this temperature draws from, over the real vocabulary.

    Args:
        logits: [..., V_rows], any floating dtype, carries the gradient. V_rows may exceed num_vocab, because
            model heads are padded (Qwen2.5's has 151,936 or 152,064 rows by model size).
        temperature: in (0, inf); the logits are divided by it.
        num_vocab: rows that count, in [1, V_rows]. The rest hold no probability mass; student and teacher
            must be cut at the same number or mass is missing on one side only.

    Returns:
        Logprobs [..., num_vocab] in nats; fp32, or fp64 from fp64 logits.

    Raises:
        ValueError: temperature or num_vocab is out of range.
    """
    num_rows = logits.shape[-1]
    if not 1 <= num_vocab <= num_rows:
        raise ValueError(
            f"num_vocab={num_vocab}, but the logits have {num_rows} vocabulary rows: give the number of rows "
            f"that count for student and teacher alike, in [1, {num_rows}]"
        )
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be positive and finite, the sampler's own")
    return torch.log_softmax(in_fp32_at_least(logits[..., :num_vocab]) / temperature, dim=-1)


def gather_logprobs(logprobs: Tensor, token_ids: Tensor) -> Tensor:
    """The logprob of the token that was written at each position.

    Args:
        logprobs: [T, V] in nats.
        token_ids: [T] long, in [0, V).

    Returns:
        [T] in nats, connected to `logprobs`.

    Raises:
        ValueError: there is not one row of logprobs per token.
    """
    # torch's gather accepts fewer indices than rows, which would pair tokens with the wrong positions.
    if logprobs.shape[:-1] != token_ids.shape:
        raise ValueError(
            f"logprobs {list(logprobs.shape)} and token_ids {list(token_ids.shape)} disagree: give one row "
            "of logprobs per completion token"
        )
    return logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)


def entropy(logprobs: Tensor) -> Tensor:
    """H(p) = -sum_v p_v log p_v, in [0, log V] nats.

    Args:
        logprobs: [..., V] in nats.

    Returns:
        [...] in nats.
    """
    logprobs = in_fp32_at_least(logprobs)
    return -expectation(logprobs.exp(), logprobs)


def expectation(probabilities: Tensor, values: Tensor) -> Tensor:
    """sum_v P_v x_v [...], where P_v = 0 adds 0 to value and gradient even if x_v is infinite or NaN."""
    return (probabilities * values.masked_fill(probabilities == 0, 0.0)).sum(dim=-1)


def dot(left: Tensor, right: Tensor) -> Tensor:
    """sum_v left_v right_v [n] of two [n, V], without a product [n, V] in between."""
    return torch.einsum("nv,nv->n", left, right)


def in_fp32_at_least(tensor: Tensor) -> Tensor:
    """The tensor in fp32, or in fp64 if it came so: bf16 has 8 bits, too few to subtract logprobs."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
