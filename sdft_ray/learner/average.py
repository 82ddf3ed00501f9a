"""The teacher's weights: a moving average of the student's, in fp32, each rank its own fragments."""

from collections.abc import Callable, Iterable, Iterator

import torch

from sdft_ray.distill.ema import blend
from sdft_ray.errors import CheckpointError
from sdft_ray.tensors import one_thread
from sdft_ray.weights.fragments import Fragment


class TeacherAverage:
    """ema_decay * old + (1 - ema_decay) * student after every optimizer step."""

    def __init__(self, student: Iterable[Fragment], ema_decay: float):
        self._ema_decay = ema_decay
        self._fragments = [
            Fragment(name, start, values.detach().to(torch.float32, copy=True)) for name, start, values in student
        ]

    def update(self, student: Iterable[Fragment]) -> None:
        """One step of the average; `student` yields the same fragments in the same order every time."""
        with one_thread():
            for own, new in zip(self._fragments, student, strict=True):
                blend(own.values, new.values, self._ema_decay)

    def rebase(self, student: Iterable[Fragment]) -> None:
        """Makes the average the student itself, from which a stage begins."""
        with one_thread():
            for own, new in zip(self._fragments, student, strict=True):
                own.values.copy_(new.values)

    def move(self, allocate: Callable[[list[Fragment]], list[Fragment]]) -> None:
        """Keeps the average from now on where `allocate` copies it to."""
        self._fragments = allocate(self._fragments)

    def fragments(self) -> Iterator[Fragment]:
        """The averaged weights of this rank."""
        return iter(self._fragments)

    def state_dict(self) -> dict[str, tuple[int, torch.Tensor]]:
        """Start and values by parameter name."""
        return {name: (start, values) for name, start, values in self._fragments}

    def load_state_dict(self, state: dict[str, tuple[int, torch.Tensor]]) -> None:
        """Restores `state_dict`.

        Raises:
            CheckpointError: it was made with another partition of the weights.
        """
        own = {name: (start, values.numel()) for name, start, values in self._fragments}
        saved = {name: (start, values.numel()) for name, (start, values) in state.items()}
        if own != saved:
            raise CheckpointError(
                "the checkpoint's moving average was cut for other ranks or another ZeRO stage; "
                "resume with the number of learner workers and the learner.zero_stage it was saved with."
            )
        for name, _, values in self._fragments:
            values.copy_(state[name][1])
