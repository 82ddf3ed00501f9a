"""A learner rank that gives its device to the other roles between two calls, and takes it back as it was.

On a GPU everything that a step needs goes to pinned host memory: weights, masters, moments, moving average. Never run
on one. On a CPU they are in host memory already, and part of it is what workers map: there the memory of gradients is
given back, and what torch and glibc have kept of activations.
"""

from collections.abc import Callable, Sequence

import torch

from sdft_ray.learner.adapter_average import AdapterAverage
from sdft_ray.learner.engine import StudentEngine
from sdft_ray.learner.persistent_grads import PersistentGradient
from sdft_ray.tensors import release_freed_memory
from sdft_ray.weights.fragments import Fragment, TeacherAverage


class SleepingMemory:
    """What one rank puts away."""

    def __init__(
        self,
        engine: StudentEngine,
        average: TeacherAverage | AdapterAverage | None,
        gradients: Sequence[PersistentGradient],
        device: torch.device,
    ):
        """`average` is None where the rank keeps none; `gradients` are those with memory of their own.

        An adapter's average is small and stays where it is.
        """
        self._engine = engine
        self._average = average if isinstance(average, TeacherAverage) else None
        self._gradients = gradients
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
        if self._average is not None:
            self._average_device = next(self._average.fragments()).values.device  # the host's, with learner.offload
            self._average.move(lambda owned: [_moved(fragment, torch.device("cpu")) for fragment in owned])
        torch.cuda.empty_cache()

    def take_back(self) -> None:
        """Restores all; at once where nothing is away."""
        if self._reload is None:
            return
        # Before anything is read: DeepSpeed forgets meanwhile where the masters' fragments lie.
        self._reload()
        self._reload = None
        if self._average is not None:
            self._average.move(lambda owned: [_moved(fragment, self._average_device) for fragment in owned])


def _moved(fragment: Fragment, device: torch.device) -> Fragment:
    """The fragment on another device; in pinned memory on the host, which a GPU reads at the speed of its link."""
    if fragment.values.device == device:
        return fragment
    if device.type != "cpu":
        return fragment._replace(values=fragment.values.to(device, non_blocking=True))
    pinned = torch.empty(fragment.values.shape, dtype=fragment.values.dtype, pin_memory=True)
    return fragment._replace(values=pinned.copy_(fragment.values))
