"""A learner rank that gives its device to the other roles between two calls, and takes it back as it was.

On a GPU everything that a step needs goes to pinned host memory: weights, masters, moments, moving average. Never run
on one. On a CPU they are in host memory already, and part of it is what workers map: there the memory of gradients is
given back, and what torch and glibc have kept of activations.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from sdft_ray.learner.adapter_average import AdapterAverage
from sdft_ray.learner.engine import StudentEngine
from sdft_ray.learner.persistent_grads import PersistentGradient
from sdft_ray.tensors import moved, release_freed_memory
from sdft_ray.weights.fragments import TeacherAverage

HOST = torch.device("cpu")


class SleepingMemory:
    """What one rank puts away."""

    def __init__(
        self,
        engine: StudentEngine,
        average: TeacherAverage | AdapterAverage | None,
        gradients: Sequence[PersistentGradient],
        untrained: Sequence[nn.Parameter],
        device: torch.device,
    ):
        """Puts nothing away yet.

        Args:
            engine: of the student.
            average: None where the rank keeps none; an adapter's is small and stays where it is.
            gradients: those with memory of their own.
            untrained: the parameters beneath an adapter, of which DeepSpeed's optimizer knows nothing.
            device: the rank's.
        """
        self._engine = engine
        self._average = average if isinstance(average, TeacherAverage) else None
        self._gradients = gradients
        self._untrained = untrained
        self._device = device
        self._reload: Callable[[], None] | None = None  # set while the rank's states are away
        self._average_device = device

    def put_away(self) -> None:
        """Gives the device's memory free; nothing may be computed or published until `take_back`."""
        if self._device.type == "cpu":
            for gradient in self._gradients:
                gradient.release()
            release_freed_memory()
            return
        self._reload = self._engine.offload()
        self._move_untrained(HOST)
        if self._average is not None:
            self._average_device = next(self._average.fragments()).values.device  # the host's, with learner.offload
            self._move_average(self._average, HOST)
        torch.cuda.empty_cache()

    def take_back(self) -> None:
        """Restores all; at once where nothing is away."""
        if self._reload is None:
            return
        # Before anything is read: DeepSpeed forgets meanwhile where the masters' fragments lie.
        self._reload()
        self._reload = None
        self._move_untrained(self._device)
        if self._average is not None:
            self._move_average(self._average, self._average_device)

    def _move_untrained(self, device: torch.device) -> None:
        for param in self._untrained:
            param.data = moved(param.data, device)

    def _move_average(self, average: TeacherAverage, device: torch.device) -> None:
        average.move(lambda owned: [each._replace(values=moved(each.values, device)) for each in owned])
