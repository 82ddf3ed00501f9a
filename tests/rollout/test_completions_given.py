import asyncio

from sdft_ray.rollout.completions import GivenCompletions
from tests.fakes import make_example


def test_the_completion_is_the_demonstration_with_its_end_token():
    rollout = asyncio.run(GivenCompletions().complete(make_example(5)))
    assert rollout.prompt_tokens == (1, 2, 5)
    assert rollout.completion_tokens == (7, 8, 0)
    assert rollout.logprobs == (0.0, 0.0, 0.0)
    assert not rollout.truncated
    assert rollout.num_sampled == 0


def test_a_demonstration_is_never_stale():
    async def complete_after_loading():
        completions = GivenCompletions()
        await completions.load_weights(7)
        return await completions.complete(make_example(0))

    assert asyncio.run(complete_after_loading()).weight_version == 7
