"""What is NaN or infinite in a step, and where: looked for once a loss or a norm has shown that something is.

The names of places are sentences' beginnings, such as "the teacher's hidden states"; `remedy_of` has what to do.
"""

from collections.abc import Sequence

import numpy as np
import torch

from sdft_ray.distill.distributions import Head, HiddenRows, JoinedRows, LogitsRows, TeacherRows
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.records import Microbatch
from sdft_ray.tensors import to_tensor

WEIGHT = "the student's weight"
STUDENT_HEAD = "the student's output head (learner)"
STUDENT_HIDDEN = "the student's hidden states (learner)"
STUDENT_LOGITS = "the student's logits (learner)"
TEACHER = "what the teacher makes of the tokens (teacher worker)"
TEACHER_HEAD = "the teacher's output head (learner)"
SAMPLER = "the sampler's logprobs (rollout worker)"
LOSS = "the loss (learner)"

_REMEDIES = {
    TEACHER: "set model.dtype=FLOAT32, in which the teacher overflows later, or give another teacher.path",
    TEACHER_HEAD: "set model.dtype=FLOAT32, or give another teacher.path",
    SAMPLER: "set model.dtype=FLOAT32, in which the engine overflows later",
}


def weight_place(name: str) -> str:
    """The place of a broken master."""
    return f"{WEIGHT} {name} (learner)"


def gradient_place(names: str) -> str:
    """The place of broken gradients, given what `first_of_all` makes of them; "" names none."""
    return f"the gradient of {names} (learner)" if names else "the norm of the gradient (learner)"


def remedy_of(place: str) -> str:
    """What to do about it."""
    return _REMEDIES.get(place, "lower learner.learning_rate")


def worst_of(places: Sequence[str]) -> str:
    """The place that explains the others: a weight, if any rank has found one, else the first."""
    return next((place for place in places if place.startswith(WEIGHT)), places[0])


def first_of_all(found: str | Sequence[str]) -> str:
    """What the first rank that has found something has found, on every rank; every rank has to call it.

    Of several names on that rank the first, with the number of the others.
    """
    names = [found] if isinstance(found, str) and found else list(found)
    own = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else ""
    of_ranks: list[str] = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(of_ranks, own)
    return next(filter(None, of_ranks), "")


@torch.no_grad()
def find_nonfinite(
    output: LossOutput,
    hidden: torch.Tensor,
    head: Head,
    teacher: TeacherRows | None,
    microbatch: Microbatch,
    num_vocab: int,
) -> dict[int, str]:
    """The place by sequence of the microbatch; all sequences where none explains a loss that is not finite."""
    checks = {
        STUDENT_HEAD: [head.weight.isfinite().all().expand(len(hidden))],
        STUDENT_HIDDEN: [hidden.isfinite().all(-1)],
        STUDENT_LOGITS: [_finite_logits(hidden, head, num_vocab)],
        TEACHER_HEAD: [] if teacher is None else _teacher_heads(teacher, len(hidden)),
        TEACHER: [] if teacher is None else _teacher_rows(teacher),
        SAMPLER: [to_tensor(np.isfinite(microbatch.sampler_logprobs))],
        LOSS: [output.divergence.isfinite()],
    }
    found: dict[int, str] = {}
    for place, flags in checks.items():
        for finite in flags:
            for sequence in np.unique(microbatch.sequence_ids[~finite.cpu().numpy()]).tolist():
                found.setdefault(sequence, place)
    return found or dict.fromkeys(range(len(microbatch.example_ids)), LOSS)


def _finite_logits(hidden: torch.Tensor, head: Head, num_vocab: int) -> torch.Tensor:
    """[T] bool, row after row: all logits of a batch would not fit."""
    return torch.stack([head.logits(row[None], num_vocab).isfinite().all() for row in hidden])


def _teacher_rows(teacher: TeacherRows) -> list[torch.Tensor]:
    """[T] bool: what has come from the teacher, without its head."""
    if isinstance(teacher, LogitsRows):
        return [~(teacher.values.isnan() | teacher.values.isposinf()).any(-1)]  # -inf is a token that cannot be
    if isinstance(teacher, HiddenRows):
        return [teacher.hidden.isfinite().all(-1)]
    if isinstance(teacher, JoinedRows):
        return [torch.cat([part.hidden.isfinite().all(-1) for part in teacher.parts])]
    return [~(teacher.logprobs.isnan().any(-1) | teacher.tail_logprobs.isnan() | teacher.token_logprobs.isnan())]


def _teacher_heads(teacher: TeacherRows, num_tokens: int) -> list[torch.Tensor]:
    """[T] bool: the heads of the weight versions that the rows were made with."""
    parts = teacher.parts if isinstance(teacher, JoinedRows) else [teacher] if isinstance(teacher, HiddenRows) else []
    flags = [part.head.weight.isfinite().all().expand(len(part.hidden)) for part in parts]
    return [torch.cat(flags)] if flags and num_tokens else []
