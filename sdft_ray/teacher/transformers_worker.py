"""The teacher actor with the network in plain transformers, on one GPU or the CPU.

Where the run rehearses, a second network keeps the weights the run began with.

Legend: V vocabulary entries that count.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from sdft_ray.config import ModelConfig, TeacherConfig
from sdft_ray.examples import GuardRow
from sdft_ray.models.packing import Packing
from sdft_ray.records import Publication, TeacherPayload
from sdft_ray.teacher.weights import average_weights, copy_weights, map_weights
from sdft_ray.teacher.worker import ScoreRequest, TeacherWorker
from sdft_ray.tensors import release_freed_memory
from sdft_ray.weights.plan import WeightPlan
from sdft_ray.workers.worker import importing

if TYPE_CHECKING:
    from sdft_ray.teacher.scoring_network import ScoringNetwork

T = TypeVar("T")
GIB = 2**30


class TransformersTeacher(TeacherWorker):
    """Scores a batch in one forward pass of packed sequences, and what the initial weights score in another."""

    def __init__(
        self,
        *,
        rank: int,
        log_dir: str,
        model_path: str,
        model: ModelConfig,
        teacher: TeacherConfig,
        num_tokens: int,
        temperature: float,
        device: str,
        weights: WeightPlan,
        guard_rows: Sequence[GuardRow],
        max_len: int,
    ):
        """Loads nothing yet.

        Args:
            rank: of this worker in its group.
            log_dir: where its log file lies.
            model_path: local model folder; its weights are version 0.
            model: dtype and attention of the network.
            teacher: tokens of one forward pass, kind and precision of the payload.
            num_tokens: V; rows of the head from there on are padding and leave no trace in a payload.
            temperature: of the sampler; a TOPK payload holds probabilities at this temperature.
            device: "cpu", or "cuda" where the actor was given a GPU.
            weights: whether published ones are used where they lie: in host memory of this node that does not change
                while anything is scored; and whether those of version 0 are kept beside them.
            guard_rows: what the packing of sequences is checked on.
            max_len: tokens of the longest teacher prompt with its completion.
        """
        super().__init__(
            rank=rank, log_dir=log_dir, device=device, max_tokens_per_forward=teacher.tokens_scored_together
        )
        self._teacher = teacher
        self._network_settings: dict[str, Any] = {
            "model_path": model_path,
            "model": model,
            "teacher": teacher,
            "num_tokens": num_tokens,
            "temperature": temperature,
            "device": torch.device(device),
            "guard_rows": guard_rows,
            "max_len": max_len,
        }
        self._maps_weights = weights.teachers_map
        # An adapter is switched off for them; other weights of the run's beginning take a network of their own.
        self._keeps_initial = weights.teachers_keep_initial and not model.adapter.is_on
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forward")

    async def ready(self) -> int:
        """See `TeacherWorker.ready`.

        Raises:
            ModelError: the network's head is of an unknown kind, or it computes no packing rightly.
        """
        # Imported here because the driver imports this module to make the actor, and Ray before the actor is made.
        with importing():
            from sdft_ray.teacher.scoring_network import ScoringNetwork

        self._network = ScoringNetwork(**self._network_settings)
        if self._keeps_initial:
            self._initial = ScoringNetwork(**self._network_settings)
        if self._network.packing is Packing.SINGLE:
            self._batcher.run_singly()
        return await super().ready()

    def notes(self) -> tuple[str, ...]:
        """See `Worker.notes`."""
        if not self._keeps_initial:
            return (self._network.note,)
        size = f"{self._initial.num_bytes / GIB:.2f} GiB"
        return self._network.note, f"teacher: a second network of {size} keeps the initial weights, for rehearsal"

    async def average_weights(self, publication: Publication) -> int:
        """Averages the published student into the weights, between two batches; raises as `average_weights`."""
        return await self._change_weights(publication, self._average_weights)

    async def sleep(self) -> None:
        """See `Worker.sleep`; loads no weights meanwhile."""
        for network in self._networks():
            await self._in_thread(network.put_away)
        release_freed_memory()

    async def wake(self) -> None:
        """See `Worker.wake`."""
        for network in self._networks():
            await self._in_thread(network.take_back)

    def _networks(self) -> tuple["ScoringNetwork", ...]:
        """Those that are loaded: none before `ready`, one, or two where the run rehearses."""
        if not hasattr(self, "_network"):
            return ()
        return (self._network, self._initial) if self._keeps_initial else (self._network,)

    def close(self) -> None:
        """Ends the thread of the forward passes after the one that runs."""
        self._thread.shutdown(cancel_futures=True)

    async def _payloads(self, requests: list[ScoreRequest]) -> list[TeacherPayload]:
        return await self._in_thread(partial(self._forward, requests))

    async def _replace_weights(self, publication: Publication) -> None:
        if not self._maps_weights:
            await self._in_thread(partial(copy_weights, self._network.parameters, publication))
            return
        await self._in_thread(partial(map_weights, self._network.parameters, publication))
        if publication.version == 0:
            release_freed_memory()  # the weights of the model folder, which are the same

    async def _average_weights(self, publication: Publication) -> None:
        parameters, version, decay = self._network.parameters, self.weight_version, self._teacher.ema_decay
        await self._in_thread(partial(average_weights, parameters, version, publication, decay))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _forward(self, requests: Sequence[ScoreRequest]) -> list[TeacherPayload]:
        payloads: dict[int, TeacherPayload] = {}
        by_initial_weights = self._initial.payloads if self._keeps_initial else self._network.initial_payloads
        for score, by_initial in ((self._network.payloads, False), (by_initial_weights, True)):
            indices = [index for index, request in enumerate(requests) if request.by_initial == by_initial]
            if indices:
                sequences = [(requests[index].prompt_tokens, requests[index].completion_tokens) for index in indices]
                payloads |= zip(indices, score(sequences), strict=True)
        return [payloads[index] for index in range(len(requests))]
