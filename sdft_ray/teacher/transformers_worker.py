"""The teacher actor with the network in plain transformers, on one GPU or the CPU.

Legend: V vocabulary entries that count.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from sdft_ray.config import ModelConfig, TeacherConfig
from sdft_ray.models.network import check_head, completion_hidden, load_network, output_head
from sdft_ray.models.packing import PackedSequences, Packing, pack_sequences
from sdft_ray.models.packing_check import check_packing
from sdft_ray.models.state import published_state
from sdft_ray.records import GuardRow, Publication, TeacherPayload
from sdft_ray.teacher.payload import PayloadPacker
from sdft_ray.teacher.weights import average_weights, copy_weights, map_weights
from sdft_ray.teacher.worker import ScoreRequest, TeacherWorker
from sdft_ray.tensors import release_freed_memory
from sdft_ray.weights.plan import WeightPlan

T = TypeVar("T")


class TransformersTeacher(TeacherWorker):
    """Scores a batch in one forward pass of packed sequences."""

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
                while anything is scored.
            guard_rows: what the packing of sequences is checked on.
            max_len: tokens of the longest teacher prompt with its completion.
        """
        super().__init__(
            rank=rank, log_dir=log_dir, device=device, max_tokens_per_forward=teacher.max_tokens_per_forward
        )
        self._device = torch.device(device)
        self._model_path, self._model = model_path, model
        self._teacher = teacher
        self._num_tokens, self._temperature = num_tokens, temperature
        self._maps_weights = weights.teachers_map
        self._guard_rows, self._max_len = guard_rows, max_len
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forward")

    async def ready(self) -> int:
        """See `TeacherWorker.ready`.

        Raises:
            ModelError: the network's head is of an unknown kind, or it computes no packing rightly.
        """
        network = load_network(self._model_path, self._model.dtype, self._model)
        self._network = network.to(self._device).eval().requires_grad_(False)
        check_head(self._network)
        self._packer = PayloadPacker(self._teacher, output_head(self._network), self._num_tokens, self._temperature)
        self._parameters = published_state(self._network)
        self._packing = self._check_packing()
        return await super().ready()

    def notes(self) -> tuple[str, ...]:
        """See `Worker.notes`."""
        return self._notes

    async def average_weights(self, publication: Publication) -> int:
        """Averages the published student into the weights, between two batches; raises as `average_weights`."""
        return await self._change_weights(publication, self._average_weights)

    def close(self) -> None:
        """Ends the thread of the forward passes after the one that runs."""
        self._thread.shutdown(cancel_futures=True)

    async def _payloads(self, requests: list[ScoreRequest]) -> list[TeacherPayload]:
        return await self._in_thread(partial(self._forward, requests))

    async def _replace_weights(self, publication: Publication) -> None:
        if not self._maps_weights:
            await self._in_thread(partial(copy_weights, self._parameters, publication))
            return
        await self._in_thread(partial(map_weights, self._parameters, publication))
        if publication.version == 0:
            release_freed_memory()  # the weights of the model folder, which are the same

    async def _average_weights(self, publication: Publication) -> None:
        await self._in_thread(
            partial(average_weights, self._parameters, self.weight_version, publication, self._teacher.ema_decay)
        )

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    @torch.inference_mode()
    def _forward(self, requests: Sequence[ScoreRequest]) -> list[TeacherPayload]:
        packed = pack_sequences(requests, share_prefix=self._packing is Packing.SHARED_PREFIX)
        hidden = self._hidden(packed)
        lengths = [len(request.completion_tokens) for request in requests]
        return [
            self._packer.pack(rows, request.completion_tokens)
            for rows, request in zip(hidden.split(lengths), requests, strict=True)
        ]

    def _hidden(self, packed: PackedSequences) -> torch.Tensor:
        """Hidden states [T, H] at the pack's predictor_index."""
        arrays = (packed.input_ids, packed.position_ids, packed.predictor_index)
        return completion_hidden(self._network, *(torch.from_numpy(array).to(self._device) for array in arrays))

    def _check_packing(self) -> Packing:
        verdict = check_packing(
            self._network,
            self._guard_rows,
            self._hidden,
            attention=self._model.attention,
            enter_mode=self._network.eval,
            longest=self._max_len,
        )
        self._notes = (f"teacher: {verdict.sentence(type(self._network).__name__)}",)
        if verdict.packing is Packing.SINGLE:
            self._batcher.run_singly()
        return verdict.packing
