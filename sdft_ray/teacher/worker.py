"""The teacher actor: scores given completions, teacher-forced; its backend has the network and makes the payloads.

Legend: P teacher prompt tokens, T completion tokens.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from sdft_ray.records import INITIAL_VERSION, Publication, TeacherPayload
from sdft_ray.teacher.batching import TokenBudgetBatcher
from sdft_ray.weights.checksum import checksum
from sdft_ray.workers.spans import span
from sdft_ray.workers.worker import Worker

LOWEST_PRIORITY = 19


class ScoreRequest(NamedTuple):
    """A completion under the teacher's prompt."""

    prompt_tokens: tuple[int, ...]  # [P]
    completion_tokens: tuple[int, ...]  # [T]
    by_initial: bool = False  # with the weights the run began with, whatever the worker holds besides


class TeacherWorker(Worker, ABC):
    """What all backends share: requests that wait together are scored together, by one version of the weights."""

    role = "teacher"

    def __init__(self, *, rank: int, log_dir: str, device: str, max_tokens_per_forward: int):
        """Called by a backend before it loads its network.

        Args:
            rank: of this worker in its group.
            log_dir: where its log file lies.
            device: "cpu", or "cuda" where the actor was given a GPU.
            max_tokens_per_forward: requests are scored together up to this many tokens; at 0, one by one.
        """
        super().__init__(rank, log_dir)
        if device == "cpu":
            # Where scoring shares its cores with sampling, sampling goes first: the step waits for its last completion,
            # and two sets of threads that take turns at every barrier slow each other down by half.
            os.nice(LOWEST_PRIORITY)
        self._batcher = TokenBudgetBatcher(self._score_batch, max_tokens_per_forward)
        self.weight_version = INITIAL_VERSION

    async def ready(self) -> int:
        """Loads the network; called once, before anything else. Returns the weight version."""
        return self.weight_version

    async def score(
        self, prompt_tokens: tuple[int, ...], completion_tokens: tuple[int, ...], by_initial: bool = False
    ) -> tuple[int, TeacherPayload]:
        """What the teacher says about one completion: the weight version that says it, and the payload.

        Called with num_returns=2, so that the caller reads the first and passes on a handle of the second. `by_initial`
        asks for the weights the run began with, which a worker holds if the weight plan says so.
        """
        request = ScoreRequest(prompt_tokens, completion_tokens, by_initial)
        payload, version = await self._batcher.submit(request, len(prompt_tokens) + len(completion_tokens))
        return version, payload

    async def load_weights(self, publication: Publication) -> int:
        """Replaces the weights in place, between two batches.

        Raises:
            ModelError: the publication lacks a parameter of the network.
        """
        return await self._change_weights(publication, self._replace_weights)

    def checksum(self, publication: Publication) -> tuple[str, str]:
        """This worker's name, and what it reads of a publication, which it does not load."""
        return self.name, checksum(publication)

    async def _change_weights(self, publication: Publication, change: Callable[[Publication], Awaitable[None]]) -> int:
        async with self._batcher.between_batches():
            with span("load weights", weight_version=publication.version):
                await change(publication)
            self.weight_version = publication.version
        return self.weight_version

    async def _score_batch(self, requests: list[ScoreRequest]) -> list[tuple[TeacherPayload, int]]:
        version = self.weight_version  # fixed for this batch: weights change between batches only
        num_tokens = sum(len(request.prompt_tokens) + len(request.completion_tokens) for request in requests)
        with span("score", sequences=len(requests), tokens=num_tokens, weight_version=version):
            payloads = await self._payloads(requests)
        versions = [INITIAL_VERSION if request.by_initial else version for request in requests]
        return list(zip(payloads, versions, strict=True))

    @abstractmethod
    async def _payloads(self, requests: list[ScoreRequest]) -> list[TeacherPayload]:
        """One payload for each request, in their order."""

    @abstractmethod
    async def _replace_weights(self, publication: Publication) -> None:
        """Makes the network's weights those of the publication; nothing is scored meanwhile."""
