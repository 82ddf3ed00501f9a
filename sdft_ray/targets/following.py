"""Follows a job until it has ended: its log, through broken streams, and its status, which alone tells how it ended.

The end of a log stream says nothing: a dashboard that restarts ends it, and so does a job that has failed.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from sdft_ray.targets.jobs import JobClient, JobState, JobStatus, Unreachable

KEPT_CHARACTERS = 10_000
TRIES_IN_VAIN = 3  # to read on in the log of a job that has ended, whose head may be gone


@dataclass(frozen=True, slots=True)
class Pace:
    """How often is asked, in seconds."""

    patience_s: float  # for which nobody may answer
    poll_s: float = 5.0  # between two questions about a job that waits
    silence_s: float = 15.0  # of a log, after which the job's status is asked
    first_delay_s: float = 1.0  # before a question is asked again; each further delay is twice as long
    longest_delay_s: float = 30.0


class Follower:
    """One job as it goes on, for a terminal."""

    def __init__(self, client: JobClient, write: Callable[[str], object], say: Callable[[str], object], pace: Pace):
        """Asks nothing yet.

        Args:
            client: of the job.
            write: takes the log, a piece at a time.
            say: takes what is told of the job besides, a line at a time.
            pace: how often is asked.
        """
        self._client = client
        self._write = write
        self._say = say
        self._pace = pace
        self._attempt = ""  # whose log was written last
        self._num_written = 0  # characters of it
        self._said = ""
        self._was_there = False
        self.end_of_log = ""  # its last KEPT_CHARACTERS, for what a message can make of it

    async def follow(self) -> JobStatus:
        """Returns how the job has ended.

        Raises:
            Unreachable: nobody has answered for `patience_s`.
            SdftError: what the target's client refuses.
        """
        in_vain = 0
        while True:
            status, num_written, is_whole = await self.asked(), self._num_written, True
            if status.attempt:
                is_whole = await self._write_log(status)
                in_vain = 0 if is_whole or self._num_written != num_written else in_vain + 1
            if status.state.has_ended and (is_whole or in_vain == TRIES_IN_VAIN):
                return status
            if not status.attempt or status.attempt != self._attempt:
                await asyncio.sleep(self._pace.poll_s)

    async def asked(self) -> JobStatus:
        """The status, asked again with growing delays as long as nobody answers.

        Raises:
            Unreachable: nobody has answered for `patience_s`.
        """
        since, delay = time.monotonic(), self._pace.first_delay_s
        while True:
            try:
                status = self._client.status()
            except Unreachable as error:
                if time.monotonic() - since > self._pace.patience_s:
                    raise error.adding("The job goes on; mode=logs follows it again.") from error
                self._tell(f"no answer, asking again: {error}")
            else:
                if status.state is JobState.MISSING and self._was_there:
                    status = JobStatus(state=JobState.STOPPED, words="it is gone: somebody has removed it")
                self._was_there = status.state is not JobState.MISSING
                self._tell(str(status))
                return status
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._pace.longest_delay_s)

    def _tell(self, words: str) -> None:
        if words != self._said:
            self._said = words
            self._say(words)

    async def _write_log(self, status: JobStatus) -> bool:
        """Writes what is new in the log of a try, until its stream ends, or is silent and the job has ended.

        Returns:
            False where the stream has broken, so that lines may be left.
        """
        if status.attempt != self._attempt:
            self._attempt, self._num_written = status.attempt, 0
        num_read, is_whole = 0, True
        async with (
            aclosing(self._client.log(status.attempt)) as pieces,
            aclosing(_with_silence(pieces, self._pace.silence_s)) as with_silence,
        ):
            try:
                async for piece in with_silence:
                    if piece:
                        new = piece[max(0, self._num_written - num_read) :]
                        num_read += len(piece)
                        if new:
                            self._write(new)
                            self._num_written += len(new)
                            self.end_of_log = (self.end_of_log + new)[-KEPT_CHARACTERS:]
                    elif status.state.has_ended or (await self.asked()) != status:
                        return True
            except Unreachable as error:
                self._tell(f"the log has broken off: {error}")
                is_whole = False
        if not (is_whole and status.state.has_ended):
            await asyncio.sleep(self._pace.first_delay_s)
        return is_whole


async def _with_silence(pieces: AsyncGenerator[str, None], silence_s: float) -> AsyncGenerator[str, None]:
    """The pieces, and "" whenever none has come for `silence_s`."""
    following = asyncio.ensure_future(_next(pieces))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=silence_s)
            if not done:
                yield ""
                continue
            piece = following.result()
            if piece is None:
                return
            yield piece
            following = asyncio.ensure_future(_next(pieces))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _next(pieces: AsyncGenerator[str, None]) -> str | None:
    return await anext(pieces, None)
