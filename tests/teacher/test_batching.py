import asyncio

import pytest

from sdft_ray.teacher.batching import TokenBudgetBatcher


class Recorder:
    """Runs batches of names, remembers them, and answers with upper-case names once `gate` is open."""

    def __init__(self, fail_on: str = "nothing"):
        self.batches: list[list[str]] = []
        self.running = 0
        self.max_running = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._fail_on = fail_on

    async def run(self, requests: list[str]) -> list[str]:
        self.batches.append(list(requests))
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        await self.gate.wait()
        self.running -= 1
        if self._fail_on in requests:
            raise ValueError(f"cannot score {self._fail_on}")
        return [request.upper() for request in requests]


async def settle():
    """Lets every task run until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)


def submit_all(recorder, budget, requests):
    async def run():
        batcher = TokenBudgetBatcher(recorder.run, budget)
        calls = [batcher.submit(name, num_tokens) for name, num_tokens in requests]
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(run())


def test_every_caller_gets_its_own_result_in_order_of_arrival():
    recorder = Recorder()
    assert submit_all(recorder, 100, [(name, 1) for name in "abcde"]) == list("ABCDE")
    assert recorder.batches == [list("abcde")]


def test_a_batch_stays_within_the_budget():
    recorder = Recorder()
    submit_all(recorder, 10, [("a", 4), ("b", 6), ("c", 1), ("d", 9), ("e", 1)])
    assert recorder.batches == [["a", "b"], ["c", "d"], ["e"]]


def test_a_request_over_the_budget_runs_alone():
    recorder = Recorder()
    assert submit_all(recorder, 10, [("a", 4), ("b", 50), ("c", 4)]) == ["A", "B", "C"]
    assert recorder.batches == [["a"], ["b"], ["c"]]


def test_an_error_reaches_every_caller_of_its_batch_and_no_other():
    results = submit_all(Recorder(fail_on="b"), 2, [("a", 1), ("b", 1), ("c", 1)])
    assert [str(result) for result in results] == ["cannot score b", "cannot score b", "C"]
    assert isinstance(results[0], ValueError)


def test_what_comes_in_during_a_batch_makes_the_next_one():
    async def run():
        recorder = Recorder()
        recorder.gate.clear()
        batcher = TokenBudgetBatcher(recorder.run, 100)
        calls = []
        for name in "abc":
            calls.append(asyncio.create_task(batcher.submit(name, 1)))
            await settle()
        recorder.gate.set()
        await asyncio.gather(*calls)
        await batcher.submit("d", 1)
        return recorder

    recorder = asyncio.run(run())
    assert recorder.batches == [["a"], ["b", "c"], ["d"]]
    assert recorder.max_running == 1


def test_a_cancelled_caller_takes_its_waiting_request_along_and_disturbs_nobody():
    async def run():
        recorder = Recorder()
        recorder.gate.clear()
        batcher = TokenBudgetBatcher(recorder.run, 100)
        running = [asyncio.create_task(batcher.submit(name, 1)) for name in "ab"]
        await settle()
        waiting = [asyncio.create_task(batcher.submit(name, 1)) for name in "cd"]
        await settle()
        running[0].cancel()
        waiting[0].cancel()
        await settle()
        recorder.gate.set()
        return recorder, await asyncio.gather(*running, *waiting, return_exceptions=True)

    recorder, (cancelled, second, cancelled_too, fourth) = asyncio.run(run())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(cancelled_too, asyncio.CancelledError)
    assert (second, fourth) == ("B", "D")
    assert recorder.batches == [["a", "b"], ["d"]]


def test_nothing_runs_between_batches():
    async def run():
        recorder = Recorder()
        recorder.gate.clear()
        batcher = TokenBudgetBatcher(recorder.run, 1)
        calls = [asyncio.create_task(batcher.submit(name, 1)) for name in "abc"]
        await settle()
        waiting = asyncio.create_task(hold(batcher, recorder))
        await settle()
        assert not waiting.done()
        recorder.gate.set()
        await asyncio.gather(*calls)
        return await waiting

    async def hold(batcher, recorder):
        async with batcher.between_batches():
            await settle()
            return recorder.running, len(recorder.batches)

    assert asyncio.run(run()) == (0, 1)


def test_a_batcher_goes_on_after_an_error():
    async def run():
        batcher = TokenBudgetBatcher(Recorder(fail_on="a").run, 100)
        with pytest.raises(ValueError, match="cannot score a"):
            await batcher.submit("a", 1)
        return await batcher.submit("b", 1)

    assert asyncio.run(run()) == "B"
