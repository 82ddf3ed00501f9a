"""The teacher actor on vLLM: one engine that may be spread over several GPUs, where it was never run so far."""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdft_ray.config import ModelConfig, TeacherConfig
from sdft_ray.inference.merging import make_receiver
from sdft_ray.models.network import TORCH_DTYPE
from sdft_ray.records import HiddenPayload, Publication, TeacherPayload, WorkerStatus
from sdft_ray.teacher.worker import ScoreRequest, TeacherWorker
from sdft_ray.tensors import to_array
from sdft_ray.weights.plan import WeightPlan
from sdft_ray.workers.worker import importing

if TYPE_CHECKING:
    from sdft_ray.teacher.vllm_engine import ReadingEngine


class VllmTeacher(TeacherWorker):
    """Hands a batch to the engine, which reads it in one forward pass; a longer sequence alone, in several."""

    _engine: "ReadingEngine"

    def __init__(
        self,
        *,
        rank: int,
        log_dir: str,
        model_path: str,
        model: ModelConfig,
        teacher: TeacherConfig,
        max_model_len: int,
        tensor_parallel_size: int,
        shares_device: bool,
        sleeps: bool,
        device: str,
        weights: WeightPlan,
    ):
        """Starts nothing yet.

        Args:
            rank: of this worker in its group.
            log_dir: where its log file lies.
            model_path: local model folder; its weights are version 0.
            model: dtype of the weights.
            teacher: engine settings and precision of the payload.
            max_model_len: tokens of the longest teacher prompt and completion together.
            tensor_parallel_size: GPUs of the engine; 1 on a CPU.
            shares_device: whether other workers use the same memory, so that the engine must not take what is free.
            sleeps: whether it gives its memory to other workers between calls; see `sleep`.
            device: "cpu", or "cuda" where the actor was given a GPU.
            weights: what brings new ones.
        """
        super().__init__(
            rank=rank, log_dir=log_dir, device=device, max_tokens_per_forward=teacher.tokens_scored_together
        )
        self._payload_dtype = TORCH_DTYPE[teacher.payload_precision]
        self._engine_settings: dict[str, Any] = {
            "model_path": model_path,
            "model": model,
            "teacher": teacher,
            "max_model_len": max_model_len,
            "tensor_parallel_size": tensor_parallel_size,
            "shares_device": shares_device,
            "sleeps": sleeps,
            "receiver": make_receiver(weights.average_channel, model_path, model),
        }

    async def ready(self) -> int:
        """See `TeacherWorker.ready`.

        Raises:
            EngineError: vLLM cannot start the engine.
        """
        # Imported here because the driver imports this module to make the actor and has no use for vLLM.
        with importing():
            from sdft_ray.teacher.vllm_engine import ReadingEngine

        self._engine = ReadingEngine(worker=self.name, log=self.log, **self._engine_settings)
        await self._engine.keep_completion_rows()
        return await super().ready()

    async def status(self) -> WorkerStatus:  # type: ignore[override]  # Ray's caller waits for either
        """See `Worker.status`; the GPU is used by the engine's processes."""
        return replace(super().status(), peak_gpu_memory_gib=await self._engine.peak_gpu_memory_gib())

    async def sleep(self) -> None:
        """See `Worker.sleep`; the weights wait in host memory."""
        if hasattr(self, "_engine"):
            await self._engine.sleep()

    async def wake(self) -> None:
        """See `Worker.wake`."""
        if hasattr(self, "_engine"):
            await self._engine.wake()

    def close(self) -> None:
        """Ends the engine's processes."""
        if hasattr(self, "_engine"):  # not where it could not start
            self._engine.close()

    async def _payloads(self, requests: list[ScoreRequest]) -> list[TeacherPayload]:
        hidden = await asyncio.gather(*(self._engine.hidden_states(*request[:2]) for request in requests))
        return [HiddenPayload(hidden=to_array(states.to(self._payload_dtype))) for states in hidden]

    async def _replace_weights(self, publication: Publication) -> None:
        await self._engine.load_weights(publication)
