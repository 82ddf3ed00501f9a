"""Weight sync of a run through the channels of one node."""

from typing import Any

from tests.gpu_check.parts import Place
from tests.gpu_check.runs import rows


def measure(place: Place) -> dict[str, Any]:
    """Both."""
    return {"tables": {"": rows(place, "shared memory", "object store")}}
