"""The teacher as a moving average of the student (docs/method.md).

Legend: `...` stands for any shape; ema and student have the same one.
"""

import torch
from torch import Tensor


def blend(ema: Tensor, student: Tensor, ema_decay: float) -> None:
    """Moves the average towards the student, in place: ema = ema_decay * ema + (1 - ema_decay) * student.

    After n steps towards a resting student 1 - ema_decay**n of the gap is closed. Where student and average
    agree the average does not move by a single bit, and ema_decay 1 and 0 give exactly the old average and
    the student.

    Args:
        ema: [...] fp32, changed in place.
        student: [...], any floating dtype; the fp32 master weights where there are any. Not changed.
        ema_decay: the share of the OLD average that is kept, in [0, 1]; the paper's alpha is 1 - ema_decay.

    Raises:
        TypeError: ema is not fp32.
        ValueError: ema_decay is outside [0, 1], or the shapes differ.
    """
    if ema.dtype != torch.float32:
        raise TypeError(
            f"ema has dtype {ema.dtype}, but the average must be kept in torch.float32: in bf16 a step of "
            "1 % is rounded away and the teacher silently stands still; keep fp32, cast when publishing"
        )
    if not 0.0 <= ema_decay <= 1.0:
        raise ValueError(
            f"ema_decay={ema_decay} must lie in [0, 1]: it is the share of the OLD teacher that is kept; "
            "for the paper's alpha of 0.01 give 0.99"
        )
    if ema.shape != student.shape:
        raise ValueError(
            f"ema {list(ema.shape)} and student {list(student.shape)} must have one shape: an empty or "
            "flat student is a ZeRO-3 shard that was not gathered"
        )
    with torch.no_grad():
        # lerp rather than mul and add: it is exact at both ends and where both agree, so nothing drifts by
        # rounding.
        ema.lerp_(student.to(torch.float32), 1.0 - ema_decay)
