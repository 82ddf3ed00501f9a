"""Requests that wait at the same time run together, up to a number of tokens; one batch after the other."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, NamedTuple, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class _Waiting(NamedTuple, Generic[Request]):
    request: Request
    num_tokens: int
    started: asyncio.Future  # of (the batch's task, the request's index in it)


class TokenBudgetBatcher(Generic[Request, Result]):
    """Calls `run_batch` with lists of requests in order of arrival.

    No request waits for others to join it: a batch is what has come in while the one before it ran. A request
    over the budget runs alone. All of it happens in one event loop.
    """

    def __init__(self, run_batch: Callable[[list[Request]], Awaitable[list[Result]]], max_tokens: int):
        """Starts idle.

        Args:
            run_batch: answers in the order of its requests.
            max_tokens: of one batch.
        """
        self._run_batch = run_batch
        self._max_tokens = max_tokens
        self._waiting: deque[_Waiting[Request]] = deque()
        self._one_batch = asyncio.Lock()
        self._runner: asyncio.Task[None] | None = None

    def run_singly(self) -> None:
        """Makes every batch one request from now on."""
        self._max_tokens = 0

    async def submit(self, request: Request, num_tokens: int) -> Result:
        """The request's result; raises what `run_batch` raised for the batch it was in.

        A caller cancelled while it waits takes its request along; once a batch runs, it runs to its end.
        """
        waiting = _Waiting(request, num_tokens, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        batch, index = await waiting.started
        return (await asyncio.shield(batch))[index]

    @asynccontextmanager
    async def between_batches(self) -> AsyncIterator[None]:
        """No batch runs inside the block; requests that come in wait."""
        async with self._one_batch:
            yield

    async def _run(self) -> None:
        while self._waiting:
            async with self._one_batch:
                taken = self._take()
                if not taken:
                    continue
                batch = asyncio.ensure_future(self._run_batch([waiting.request for waiting in taken]))
                for index, waiting in enumerate(taken):
                    waiting.started.set_result((batch, index))
                await asyncio.wait([batch])  # does not raise: the callers do, each for itself

    def _take(self) -> list[_Waiting[Request]]:
        taken: list[_Waiting[Request]] = []
        num_tokens = 0
        while self._waiting:
            waiting = self._waiting[0]
            if taken and num_tokens + waiting.num_tokens > self._max_tokens and not waiting.started.cancelled():
                break
            self._waiting.popleft()
            if not waiting.started.cancelled():
                taken.append(waiting)
                num_tokens += waiting.num_tokens
        return taken
