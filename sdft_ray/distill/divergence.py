"""Divergences between next-token distributions, summed over the whole vocabulary, in nats.

Legend: T tokens, V vocabulary; `...` stands for any leading shape.
In formulas p is the student's distribution and q the teacher's; sums run over v in [0, V).

Every divergence is computed in fp32 at least (fp64 stays fp64), sends its gradient to the student only, and
takes logprobs rather than probabilities, so a token of probability 0 (logprob -inf, or -1e4 from a masked
logit) contributes exactly 0 to the value and to the gradient instead of 0 * inf = NaN.

The training path computes the same formulas, with their gradients, in chunks.py; the divergences here serve TOPK
payloads, the reference loss and the tests. Formulas: docs/method.md; arXiv 2601.19897, Eq. 1 and App. A.1.
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
    return torch.log_softmax(_in_fp32_at_least(logits[..., :num_vocab]) / temperature, dim=-1)


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
    logprobs = _in_fp32_at_least(logprobs)
    return -_expectation(logprobs.exp(), logprobs)


def reverse_kl(student_logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """KL(p || q) = sum_v p_v (log p_v - log q_v), in [0, inf] nats: the paper's objective.

    Its gradient on the student's logits is p_v [(log p_v - log q_v) - KL] (arXiv 2601.19897, App. A.1).

    Args:
        student_logprobs: [..., V] in nats, carries the gradient.
        teacher_logprobs: [..., V] in nats, detached here.

    Returns:
        [...] in nats; inf where the teacher gives -inf to a token of which the student has mass, as defined.
    """
    student_logprobs, teacher_logprobs = _prepare(student_logprobs, teacher_logprobs)
    return _expectation(student_logprobs.exp(), student_logprobs - teacher_logprobs)


def forward_kl(student_logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """KL(q || p) = sum_v q_v (log q_v - log p_v), in [0, inf] nats: what the authors' released code runs.

    Its gradient on the student's logits is p_v - q_v.

    Args:
        student_logprobs: [..., V] in nats, carries the gradient.
        teacher_logprobs: [..., V] in nats, detached here.

    Returns:
        [...] in nats; inf where the student gives -inf to a token of which the teacher has mass, as defined.
    """
    student_logprobs, teacher_logprobs = _prepare(student_logprobs, teacher_logprobs)
    return _expectation(teacher_logprobs.exp(), teacher_logprobs - student_logprobs)


def jsd(student_logprobs: Tensor, teacher_logprobs: Tensor, beta: float) -> Tensor:
    """The Jensen-Shannon divergence: beta KL(q || m) + (1 - beta) KL(p || m) with m = (1 - beta) p + beta q.

    Bounded by the entropy of (beta, 1 - beta), hence by log 2 nats; symmetric in p and q at beta = 0.5. The
    gradient reaches the student through p and through m.

    Args:
        student_logprobs: [..., V] in nats, carries the gradient.
        teacher_logprobs: [..., V] in nats, detached here.
        beta: the teacher's share of the mixture, in the open interval (0, 1).

    Returns:
        [...] in nats, always finite.

    Raises:
        ValueError: beta is outside (0, 1).
    """
    check_jsd_beta(beta)
    student_logprobs, teacher_logprobs = _prepare(student_logprobs, teacher_logprobs)
    # Where both sides hold -inf, logaddexp differentiates to NaN; below the clamp a probability is 0 anyway.
    teacher_logprobs = teacher_logprobs.clamp(min=LOG_OF_ZERO)
    mixture_logprobs = torch.logaddexp(student_logprobs + math.log1p(-beta), teacher_logprobs + math.log(beta))
    teacher_part = _expectation(teacher_logprobs.exp(), teacher_logprobs - mixture_logprobs)
    student_part = _expectation(student_logprobs.exp(), student_logprobs - mixture_logprobs)
    return beta * teacher_part + (1.0 - beta) * student_part


def divergence(name: str, student_logprobs: Tensor, teacher_logprobs: Tensor, jsd_beta: float) -> Tensor:
    """The divergence of that name (settings.py), [...] from [..., V] and [..., V]; `jsd_beta` is read by jsd only."""
    match name:
        case "reverse_kl":
            return reverse_kl(student_logprobs, teacher_logprobs)
        case "forward_kl":
            return forward_kl(student_logprobs, teacher_logprobs)
        case "jsd":
            return jsd(student_logprobs, teacher_logprobs, jsd_beta)
        case _:
            raise ValueError(f"divergence={name!r} is unknown: choose reverse_kl, forward_kl or jsd")


def check_jsd_beta(beta: float) -> None:
    """Accepts a beta for which the JSD can teach anything.

    Args:
        beta: the teacher's share of the mixture.

    Raises:
        ValueError: beta is outside the open interval (0, 1).
    """
    if not 0.0 < beta < 1.0:
        raise ValueError(
            f"jsd beta={beta} must lie strictly between 0 and 1: the JSD vanishes at both ends, so it is no "
            "bridge between the two KLs; choose reverse_kl or forward_kl to have one of them"
        )


def _expectation(probabilities: Tensor, values: Tensor) -> Tensor:
    """sum_v P_v x_v [...], where P_v = 0 adds 0 to value and gradient even if x_v is infinite or NaN."""
    return (probabilities * values.masked_fill(probabilities == 0, 0.0)).sum(dim=-1)


def _prepare(student_logprobs: Tensor, teacher_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides in fp32 at least; a shape that broadcasts would average over the wrong teacher."""
    if student_logprobs.shape != teacher_logprobs.shape:
        raise ValueError(
            f"student_logprobs {list(student_logprobs.shape)} and teacher_logprobs "
            f"{list(teacher_logprobs.shape)} must have one shape: cut both at the same num_vocab "
            "and score the same token ids"
        )
    return _in_fp32_at_least(student_logprobs), _in_fp32_at_least(teacher_logprobs.detach())


def _in_fp32_at_least(tensor: Tensor) -> Tensor:
    """The tensor in fp32, or in fp64 if it came so: bf16 has 8 bits, too few to subtract logprobs."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
