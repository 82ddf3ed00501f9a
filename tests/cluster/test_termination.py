"""SIGTERM ends training behind a step, if that ends in time, and everything else at once."""

import asyncio
import os
import signal
import time

import pytest

from sdft_ray.cluster.termination import Termination


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def step(seconds: float, num_signals: int = 1) -> str:
    for _ in range(num_signals):
        terminate()
        await asyncio.sleep(0)
    await asyncio.sleep(seconds)
    return "ended"


def run(termination: Termination, *, seconds: float, trains: bool, num_signals: int = 1) -> str:
    async def job() -> str:
        termination.listen()
        if not trains:
            return await step(seconds, num_signals)
        with termination.while_training():
            return await step(seconds, num_signals)

    return asyncio.run(job())


def test_a_step_ends_within_the_grace_and_training_is_asked_to_stop() -> None:
    said: list[str] = []
    termination = Termination(30.0, said.append)
    assert run(termination, seconds=0.05, trains=True) == "ended"
    assert termination.is_asked
    assert said == ["SIGTERM        ending with a checkpoint behind this step, if it ends within 30 s"]


@pytest.mark.parametrize(
    ("grace_s", "trains", "num_signals"),
    [(0.1, True, 1), (0.0, True, 1), (30.0, False, 1), (30.0, True, 2)],
    ids=["a step that takes longer", "without grace", "not in training", "a second signal"],
)
def test_all_else_is_cancelled(grace_s: float, trains: bool, num_signals: int) -> None:
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        run(Termination(grace_s, lambda text: None), seconds=20, trains=trains, num_signals=num_signals)
    assert time.monotonic() - began < 10


def test_what_comes_after_training_has_no_grace_that_cuts_it() -> None:
    async def job() -> str:
        termination = Termination(0.2, lambda text: None)
        termination.listen()
        with termination.while_training():
            await step(0.05)
        return await step(0.5, num_signals=0)

    assert asyncio.run(job()) == "ended", "an export, behind the last step"


def test_training_that_begins_again_with_a_restored_learner_has_what_is_left_of_the_grace() -> None:
    async def job() -> None:
        termination = Termination(0.3, lambda text: None)
        termination.listen()
        with termination.while_training():
            await step(0.05)
        with termination.while_training():
            await step(20, num_signals=0)

    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(job())
    assert time.monotonic() - began < 10
