"""The sample buffer: tickets in, oldest batch out, staleness bounded by construction.

A producer opens a ticket before it samples and redeems it with a sample. Batch k is made of the tickets
k * batch_size to (k + 1) * batch_size - 1, in order, whichever finished first, so the order of training does not
depend on timing. At most (max_staleness + 1) * batch_size tickets are open, and a ticket closes only with its batch,
after the workers hold the new weights: a sample of batch k was begun when at least k - max_staleness batches were
closed. So no sample is ever too old, and none is ever dropped for it.
"""

import asyncio
from collections.abc import AsyncIterator

from sdft_ray.records import Sample


class SampleBuffer:
    """Holds finished samples until their batch is complete."""

    def __init__(self, *, batch_size: int, max_staleness: int, num_batches: int):
        if num_batches < 0:
            raise ValueError(f"num_batches={num_batches}: the learner is beyond the last step already")
        self.batch_size = batch_size
        self.capacity = (max_staleness + 1) * batch_size
        self._total = num_batches * batch_size
        self._opened = 0
        self._closed = 0
        self._samples: dict[int, Sample] = {}
        self._changed = asyncio.Condition()

    async def tickets(self) -> AsyncIterator[int]:
        """Opens the next ticket, again and again, until there is one for every sample of every batch.

        Waits while `capacity` tickets are open; `close_batch` unblocks it. Producers share the numbers.
        """
        while True:
            async with self._changed:
                await self._changed.wait_for(self._may_go_on)
                if self._opened == self._total:
                    return
                ticket = self._opened
                self._opened += 1
            yield ticket

    async def put(self, ticket: int, sample: Sample) -> None:
        """Redeems a ticket. Never waits for room: the ticket is the room."""
        async with self._changed:
            self._samples[ticket] = sample
            self._changed.notify_all()

    async def batch(self) -> AsyncIterator[Sample]:
        """The samples of the oldest open batch in ticket order, each as soon as it and all before it are there."""
        for ticket in range(self._closed, self._closed + self.batch_size):
            async with self._changed:
                while ticket not in self._samples:
                    await self._changed.wait()  # `put` ends it
            yield self._samples.pop(ticket)

    async def close_batch(self) -> None:
        """Closes the tickets of the oldest batch. Call it when all workers hold the weights it led to."""
        async with self._changed:
            self._closed += self.batch_size
            self._changed.notify_all()

    def _may_go_on(self) -> bool:
        return self._opened == self._total or self._opened < self._closed + self.capacity
