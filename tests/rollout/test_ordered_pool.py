import asyncio

import pytest

from sdft_ray.config import FaultsConfig
from sdft_ray.records import Publication, Rollout
from sdft_ray.rollout.ordered_pool import OrderedRolloutPool
from sdft_ray.weights.channel import WeightChannel
from sdft_ray.workers.group import WorkerGroup
from tests.fakes import make_example


class Method:
    def __init__(self, method):
        self.remote = method


class FakeActor:
    """Notes the shares it is given; each takes `pause_s`."""

    def __init__(self, pause_s: float = 0.0):
        self.shares: list[list] = []
        self._pause_s = pause_s
        self.complete_together = Method(self._complete)
        self.sample_together = Method(self._sample)
        self.read_together = Method(self._read)

    async def _complete(self, examples):
        self.shares.append([example.seed for example in examples])
        await asyncio.sleep(self._pause_s)
        return [
            Rollout(
                prompt_tokens=example.prompt_tokens,
                completion_tokens=(example.seed,),
                logprobs=(0.0,),
                weight_version=0,
                truncated=False,
                num_sampled=1,
            )
            for example in examples
        ]

    async def _sample(self, requests):
        self.shares.append([(request.prompt_tokens, request.temperature, request.seed) for request in requests])
        return [(*request.prompt_tokens, request.max_new_tokens) for request in requests]

    async def _read(self, sequences):
        self.shares.append(sequences)
        return [((-1.0,) * len(completion), (1, 2)[: len(completion)]) for _, completion in sequences]


def make_pool(*actors) -> OrderedRolloutPool:
    async def publish(kind, version):
        return Publication(version=version, buckets=())

    group = WorkerGroup("rollout", actors, "logs", faults=FaultsConfig())
    return OrderedRolloutPool(group, WeightChannel(publish, 10.0))


@pytest.mark.parametrize("pauses_s", [(0.0, 0.02), (0.02, 0.0)])
async def test_shares_depend_on_the_order_of_requests_and_not_on_who_is_faster(pauses_s) -> None:
    actors = [FakeActor(pause_s) for pause_s in pauses_s]
    pool = make_pool(*actors)
    for _ in range(2):
        rollouts = await asyncio.gather(*(pool.complete(make_example(index)) for index in range(5)))
        assert [rollout.completion_tokens for rollout in rollouts] == [(index,) for index in range(5)]
    assert [actor.shares for actor in actors] == [[[0, 2, 4]] * 2, [[1, 3]] * 2]


async def test_a_step_and_an_evaluation_that_ask_at_the_same_time_share_no_wave() -> None:
    actor = FakeActor()
    pool = make_pool(actor)
    await asyncio.gather(pool.complete(make_example(3)), pool.answer((1,), 8), pool.logprobs((1,), (2,)))
    assert sorted(map(len, actor.shares)) == [1, 1, 1]


async def test_answers_samples_and_readings_come_back_to_who_asked() -> None:
    pool = make_pool(FakeActor(), FakeActor(), FakeActor())
    answers = await asyncio.gather(
        pool.answer((1, 2), 8), pool.sample((5,), 4, 0.7, 0.9, 6), pool.answer((3,), 7), pool.answer((4,), 7)
    )
    assert answers == [(1, 2, 8), (5, 4), (3, 7), (4, 7)]
    logprobs, likely, unlikely = await asyncio.gather(
        pool.logprobs((1,), (2, 3)), pool.likelihood((1,), (2,)), pool.likelihood((1,), (2, 3))
    )
    assert (logprobs, likely, unlikely) == ((-1.0, -1.0), (-1.0, True), (-2.0, False))
