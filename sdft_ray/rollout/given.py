"""Completions that the examples bring with them: demonstrations, or raw texts."""

from sdft_ray.records import Rollout, TokenizedExample


class GivenCompletions:
    """Implements roles.Completions. Nothing is sampled: every logprob is 0 and no version is ever stale."""

    def __init__(self, weight_version: int = 0):
        self._weight_version = weight_version

    async def complete(self, example: TokenizedExample) -> Rollout:
        """What the example brings, which ends in an end-of-sequence token."""
        return Rollout(
            prompt_tokens=example.prompt_tokens,
            completion_tokens=example.demonstration_tokens,
            logprobs=(0.0,) * len(example.demonstration_tokens),
            weight_version=self._weight_version,
            truncated=False,
            num_sampled=0,
        )

    async def load_weights(self, version: int) -> None:
        """Remembers `version`: what is given depends on no weights."""
        self._weight_version = version
