"""The teacher actor: scores given completions, teacher-forced, with the network in plain transformers.

Legend: P teacher prompt tokens, T completion tokens, V vocabulary entries that count.
"""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from sdft_ray.config import ModelConfig, TeacherConfig
from sdft_ray.data.packing import pack_sequences
from sdft_ray.errors import ModelError
from sdft_ray.models.network import completion_logits, load_network
from sdft_ray.records import LogitsPayload, Publication, TeacherScores
from sdft_ray.teacher.batching import TokenBudgetBatcher
from sdft_ray.teacher.payload import pack_logits
from sdft_ray.weights.channel import open_publication
from sdft_ray.workers import Worker

LOWEST_PRIORITY = 19


class ScoreRequest(NamedTuple):
    """A completion under the teacher's prompt."""

    prompt_tokens: tuple[int, ...]  # [P]
    completion_tokens: tuple[int, ...]  # [T]


class TeacherWorker(Worker):
    """Scores completions; requests that wait together share one forward pass."""

    role = "teacher"

    def __init__(
        self,
        *,
        rank: int,
        log_dir: str,
        model_path: str,
        model: ModelConfig,
        teacher: TeacherConfig,
        num_tokens: int,
        device: str,
    ):
        """Loads the network.

        Args:
            rank: of this worker in its group.
            log_dir: where its log file lies.
            model_path: local model folder; its weights are version 0.
            model: dtype and attention of the network.
            teacher: tokens of one forward pass and the payload's precision.
            num_tokens: V; rows of the head from there on are padding and leave no trace in a payload.
            device: "cpu", or "cuda" where the actor was given a GPU.
        """
        super().__init__(rank, log_dir)
        if device == "cpu":
            # Where scoring shares its cores with sampling, sampling goes first: the step waits for its last completion,
            # and two sets of threads that take turns at every barrier slow each other down by half.
            os.nice(LOWEST_PRIORITY)
        self._num_tokens = num_tokens
        self._precision = teacher.payload_precision
        self._device = torch.device(device)
        self._network = load_network(model_path, model.dtype, model).to(self._device).eval().requires_grad_(False)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forward")
        self._batcher = TokenBudgetBatcher(self._score_batch, teacher.max_tokens_per_forward)
        self.weight_version = 0

    async def ready(self) -> int:
        """The weight version, once the network is loaded."""
        return self.weight_version

    async def score(
        self, prompt_tokens: tuple[int, ...], completion_tokens: tuple[int, ...]
    ) -> tuple[TeacherScores, LogitsPayload]:
        """The scores of one completion: a small record without its payload, and the payload.

        Called with num_returns=2, so that the caller reads the first and passes on a handle of the second.
        """
        request = ScoreRequest(prompt_tokens, completion_tokens)
        payload, version = await self._batcher.submit(request, len(prompt_tokens) + len(completion_tokens))
        return TeacherScores(payload=None, num_tokens=len(payload.logits), teacher_version=version), payload

    async def load_weights(self, publication: Publication) -> int:
        """Replaces the weights in place, between two forward passes.

        Raises:
            ModelError: the publication and the network do not hold the same parameters.
        """
        async with self._batcher.between_batches():
            await asyncio.get_running_loop().run_in_executor(self._thread, self._copy_weights, publication)
            self.weight_version = publication.version
        return self.weight_version

    def close(self) -> None:
        """Ends the thread of the forward passes after the one that runs."""
        self._thread.shutdown(cancel_futures=True)

    async def _score_batch(self, requests: list[ScoreRequest]) -> list[tuple[LogitsPayload, int]]:
        version = self.weight_version  # fixed for this batch: weights are loaded between batches only
        payloads = await asyncio.get_running_loop().run_in_executor(self._thread, self._forward, requests)
        return [(payload, version) for payload in payloads]

    @torch.inference_mode()
    def _forward(self, requests: Sequence[ScoreRequest]) -> list[LogitsPayload]:
        packed = pack_sequences(requests)
        logits = completion_logits(
            self._network,
            *(
                torch.from_numpy(array).to(self._device)
                for array in (packed.input_ids, packed.position_ids, packed.predictor_index)
            ),
        )
        lengths = [len(request.completion_tokens) for request in requests]
        return [pack_logits(rows, self._num_tokens, self._precision) for rows in logits.split(lengths)]

    @torch.no_grad()
    def _copy_weights(self, publication: Publication) -> None:
        parameters = dict(self._network.named_parameters())  # tied ones under their first name, once
        shapes = {entry.name: entry.shape for bucket in publication.buckets for entry in bucket.entries}
        for name in [*parameters, *shapes]:
            held = tuple(parameters[name].shape) if name in parameters else None
            if held != shapes.get(name):
                raise ModelError(
                    f"parameter {name}: the teacher's shape is {held}, that of the publication "
                    f"{publication.version} is {shapes.get(name)} (None: it has no such parameter)"
                )
        for name, tensor in open_publication(publication):
            parameters[name].copy_(tensor)
