"""The moving average of what an adapter does: of the products B A, and not of B and A one by one.

The average of products is no product of averages. With A as it is drawn and B at zero at the start, averages of the
factors make a product that is 14 to 40 % off the average of the products (docs/adapters.md has the figures). The exact
average has a rank that grows with every step. So it is kept as two factors of twice the adapter's rank: after every
step decay * average + (1 - decay) * update is cut to its largest singular values, which is the closest there is.

Legend: R rank of the average, r rank of the adapter.
"""

from collections.abc import Callable, Iterable, Iterator

import torch

from sdft_ray.config import AdapterConfig
from sdft_ray.models.adapter import factor_pairs
from sdft_ray.models.state import A, B
from sdft_ray.tensors import one_thread
from sdft_ray.weights.buckets import plan_buckets, views
from sdft_ray.weights.fragments import Fragment, Shapes, assemble

Factors = tuple[torch.Tensor, torch.Tensor]  # A [R, in], B [out, R]


def average_shapes(student: Shapes, average: AdapterConfig) -> Shapes:
    """Names and shapes of the average's factors.

    Args:
        student: those of the student's.
        average: the adapter as `models.adapter.averaged` makes it.
    """
    return tuple(
        (name, (average.rank, shape[1]) if name.endswith(A) else (shape[0], average.rank)) for name, shape in student
    )


class AdapterAverage:
    """As `weights.fragments.TeacherAverage`, of an adapter. Every rank computes all of it and owns a part."""

    def __init__(
        self,
        shapes: Shapes,
        average: AdapterConfig,
        student: Iterable[Fragment],
        ema_decay: float,
        device: torch.device,
        *,
        rank: int,
        num_ranks: int,
    ):
        """Begins with the student.

        Args:
            shapes: of the student's factors.
            average: the adapter as `models.adapter.averaged` makes it.
            student: the fragments of the student's factors on this rank.
            ema_decay: the share of the old average that is kept.
            device: where ranks exchange fragments.
            rank: this rank.
            num_ranks: how many there are.
        """
        self.shapes = average_shapes(shapes, average)
        self._student_shapes, self._ema_decay, self._device = shapes, ema_decay, device
        self._rank, self._num_ranks = rank, num_ranks
        self._factors = {name: torch.zeros(shape, device=device) for name, shape in self.shapes}
        self.rebase(student)

    def update(self, student: Iterable[Fragment]) -> None:
        """One step of the average; every rank has to call it."""
        decay = self._ema_decay
        with one_thread(), torch.no_grad():
            average = factor_pairs(self._factors.items())
            for target, (first, second) in factor_pairs(self._whole(student)).items():
                old_first, old_second = average[target]
                self._hold(
                    target,
                    torch.cat([old_first, first]),
                    torch.cat([decay * old_second, (1 - decay) * second], dim=1),
                )

    def rebase(self, student: Iterable[Fragment]) -> None:
        """Makes the average the student itself, with which a run and a stage begin; every rank has to call it."""
        for name, values in self._whole(student):
            mine = self._factors[name].zero_()
            mine[: values.shape[0], : values.shape[1]].copy_(values)

    def fragments(self) -> Iterator[Fragment]:
        """The part of the average that this rank owns, as views."""
        for name, values in self._factors.items():
            size = -(-values.numel() // self._num_ranks)
            own = values.view(-1)[self._rank * size : (self._rank + 1) * size]
            if own.numel():
                yield Fragment(name, self._rank * size, own)

    def restore(self, read: Callable[[str, int, int], torch.Tensor]) -> None:
        """Takes over saved values; `read` takes parameter, start and number of elements to values [elements]."""
        for name, values in self._factors.items():
            values.view(-1).copy_(read(name, 0, values.numel()))

    def _whole(self, student: Iterable[Fragment]) -> Iterator[tuple[str, torch.Tensor]]:
        held = list(student)
        for entries in plan_buckets(self._student_shapes):
            yield from views(entries, assemble(entries, held, self._device, on_all_ranks=True))

    def _hold(self, target: str, first: torch.Tensor, second: torch.Tensor) -> None:
        """Keeps the largest singular values of `second` @ `first`, shared out evenly between the factors."""
        rows, columns = torch.linalg.qr(first.T), torch.linalg.qr(second)
        left, values, right = torch.linalg.svd(columns.R @ rows.R.T)
        kept = min(len(values), self._factors[target + A].shape[0])
        roots = values[:kept].sqrt()
        self._factors[target + A].zero_()[:kept] = (right[:kept] * roots[:, None]) @ rows.Q.T
        self._factors[target + B].zero_()[:, :kept] = columns.Q @ (left[:, :kept] * roots)
