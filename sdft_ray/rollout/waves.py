"""Requests in waves: what is asked at the same time is computed together, and nothing else with it.

An engine rounds a completion by what shares its steps, which is a matter of milliseconds: two runs of one seed drift
apart at 1e-8. In a deterministic run the driver therefore gathers requests, in their order, until nobody adds one. Then
it asks for all of them at once. The next wave begins when every request of the last has its answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")

# Turns of the event loop without a new request after which a wave is whole. Coroutines that wait for one event follow
# one another by three turns at most, since a condition hands on its lock, and by one for each `gather` inside another.
QUIET_TURNS = 16


class _Waiting(NamedTuple, Generic[Request]):
    request: Request
    started: asyncio.Future  # of (the wave's task, the request's index in it)


class Waves(Generic[Request, Result]):
    """Calls `run_wave` with all requests that wait, one wave after the other, in one event loop.

    Which requests form a wave depends on no clock as long as nobody who asks has waited for anything but waves.
    """

    def __init__(self, run_wave: Callable[[list[Request]], Awaitable[list[Result]]]):
        """Starts idle; `run_wave` answers in the order of its requests."""
        self._run_wave = run_wave
        self._waiting: list[_Waiting[Request]] = []
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, request: Request) -> Result:
        """The request's result; raises what `run_wave` raised for its wave."""
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        wave, index = await waiting.started
        return (await asyncio.shield(wave))[index]

    async def _run(self) -> None:
        while self._waiting:
            await self._all_have_asked()
            taken = [waiting for waiting in self._waiting if not waiting.started.cancelled()]
            self._waiting = []
            wave = asyncio.ensure_future(self._run_wave([waiting.request for waiting in taken]))
            for index, waiting in enumerate(taken):
                waiting.started.set_result((wave, index))
            await asyncio.wait([wave])  # does not raise: the callers do, each for itself

    async def _all_have_asked(self) -> None:
        num_quiet = 0
        while num_quiet < QUIET_TURNS:
            num_waiting = len(self._waiting)
            await asyncio.sleep(0)
            num_quiet = num_quiet + 1 if len(self._waiting) == num_waiting else 0
