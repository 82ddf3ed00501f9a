"""A job's log is written to its end, also where its stream breaks behind the end of the job."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from sdft_ray.targets.following import Follower, Pace
from sdft_ray.targets.jobs import JobState, JobStatus, Unreachable
from sdft_ray.targets.run_file import Run

QUICK = Pace(patience_s=5, poll_s=0.01, silence_s=1, first_delay_s=0.01, longest_delay_s=0.02)
LOG = "step 1/2\nstep 2/2\nerror: no room\n"


class EndedJob:
    """A job that has failed; each stream of its log ends, or breaks behind as many characters as a test has said."""

    place = "the job"

    def __init__(self, *breaks_behind: int):
        self._breaks_behind = list(breaks_behind)
        self.num_streams = 0

    def submit(self, runs: Sequence[Run]) -> bool:
        return False

    def status(self) -> JobStatus:
        return JobStatus(state=JobState.FAILED, words="", attempt="first")

    async def log(self, attempt: str) -> AsyncGenerator[str, None]:
        self.num_streams += 1
        breaks = self._breaks_behind.pop(0) if self._breaks_behind else len(LOG) + 1
        if breaks:
            yield LOG[:breaks]
        if breaks <= len(LOG):
            raise Unreachable("the connection was closed")

    def stop(self) -> None:
        pass


def log_of(job: EndedJob) -> str:
    written: list[str] = []
    follower = Follower(job, written.append, lambda words: None, QUICK)
    assert asyncio.run(follower.follow()).state is JobState.FAILED
    return "".join(written)


def test_a_stream_that_breaks_behind_the_end_of_a_job_is_read_on() -> None:
    assert log_of(EndedJob(5, 0, 14)) == LOG


def test_a_log_whose_head_is_gone_is_given_up_and_the_end_is_told() -> None:
    job = EndedJob(*[9] * 100)
    assert log_of(job) == LOG[:9]
    assert job.num_streams == 4, "one that brought something, and three in vain"
