"""The tokens of a sample that student and teacher disagree on most."""

import math
from collections.abc import Callable
from typing import Any

from sdft_ray.records import SampleReport, largest_positions


def disagreement_rows(sample: SampleReport, decode: Callable[[tuple[int, ...]], str]) -> list[dict[str, Any]]:
    """One row a place, the largest divergence first: the token that was written, and what either side prefers there.

    `position` counts from 0 at the completion's first token; logprobs and divergence are in nats. What was not made is
    None: the teacher's part where nothing was scored, and preferences where the learner was not told to keep them.
    """
    views = sample.views
    tops = {top.position: top for top in views.tops}
    rows = []
    for position in largest_positions(views.divergence):
        top = tops.get(position)
        student_token, student_top_logprob = _preference(top.student if top else None, decode)
        teacher_token, teacher_top_logprob = _preference(top.teacher if top else None, decode)
        scored = len(views.teacher_logprobs) > 0
        rows.append(
            {
                "position": position,
                "token": decode((sample.completion_tokens[position],)),
                "divergence": _rounded(views.divergence[position]),
                "student_logprob": _rounded(views.student_logprobs[position]),
                "teacher_logprob": _rounded(views.teacher_logprobs[position]) if scored else None,
                "student_top": student_token,
                "student_top_logprob": student_top_logprob,
                "teacher_top": teacher_token,
                "teacher_top_logprob": teacher_top_logprob,
            }
        )
    return rows


def _preference(
    top: tuple[int, float] | None, decode: Callable[[tuple[int, ...]], str]
) -> tuple[str, float | None] | tuple[None, None]:
    return (decode((top[0],)), _rounded(top[1])) if top is not None else (None, None)


def _rounded(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
