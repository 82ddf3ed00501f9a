"""Weight sync of a run from GPU to GPU: the learner and the teacher on one, the engine on another."""

from typing import Any

from tests.gpu_check.parts import Place
from tests.gpu_check.runs import rows


def measure(place: Place) -> dict[str, Any]:
    """The run beside the one through shared memory."""
    return {"tables": {"": rows(place, "shared memory", "NCCL")}}
