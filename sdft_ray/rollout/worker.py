"""The rollout actor: one vLLM engine that samples completions from the student."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdft_ray.config import ModelConfig, RolloutConfig
from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Publication, Rollout, SampleRequest, WorkerStatus
from sdft_ray.weights.channel import Meeting
from sdft_ray.weights.checksum import checksum
from sdft_ray.weights.plan import WeightPlan
from sdft_ray.workers.spans import span
from sdft_ray.workers.worker import Worker, importing

if TYPE_CHECKING:
    from sdft_ray.rollout.engine import SamplingEngine


class RolloutWorker(Worker):
    """Samples completions, many at once; new weights do not cost those that are under way."""

    role = "rollout"
    _engine: "SamplingEngine"

    def __init__(
        self,
        *,
        rank: int,
        log_dir: str,
        model_path: str,
        model: ModelConfig,
        rollout: RolloutConfig,
        num_tokens: int,
        eos_token_ids: tuple[int, ...],
        max_model_len: int,
        tensor_parallel_size: int,
        shares_device: bool,
        sleeps: bool,
        weights: WeightPlan,
        seed: int,
    ):
        """Starts nothing yet.

        Args:
            rank: of this worker in its group.
            log_dir: where its log file lies.
            model_path: local model folder; its weights are version 0.
            model: dtype of the weights.
            rollout: sampling and engine settings.
            num_tokens: vocabulary entries that count; rows of the head from there on are padding.
            eos_token_ids: each ends a completion and is its last token.
            max_model_len: tokens of the longest prompt and completion together, and one more for `logprobs`.
            tensor_parallel_size: GPUs of the engine; 1 on a CPU.
            shares_device: whether other workers use the same memory, so that the engine must not take what is free.
            sleeps: whether it gives its memory to other workers between calls; see `sleep`.
            weights: what brings new ones, and whether they may be used where they lie; see `InferenceEngine`.
            seed: of the engine; completions have their own.
        """
        super().__init__(rank, log_dir)
        self._rollout = rollout
        self._num_tokens = num_tokens
        self._eos_token_ids = frozenset(eos_token_ids)
        self._loading = asyncio.Lock()
        self._together = asyncio.Lock()  # held while requests are computed apart from others
        self._engine_settings: dict[str, Any] = {
            "model_path": model_path,
            "model": model,
            "rollout": rollout,
            "stop_token_ids": eos_token_ids,
            "max_model_len": max_model_len,
            "tensor_parallel_size": tensor_parallel_size,
            "shares_device": shares_device,
            "sleeps": sleeps,
            "maps_weights": weights.engines_map,
            "seed": seed,
        }
        self._channel = weights.student_channel

    async def ready(self) -> int:
        """Starts the engine; called once, before anything else. Returns the weight version, 0.

        Raises:
            EngineError: vLLM cannot start it.
        """
        # Imported here because the driver imports this module to make the actor and has no use for vLLM.
        with importing():
            from sdft_ray.inference.merging import make_receiver
            from sdft_ray.rollout.engine import SamplingEngine

        settings = self._engine_settings
        receiver = make_receiver(self._channel, settings["model_path"], settings["model"])
        self._engine = SamplingEngine(worker=self.name, log=self.log, receiver=receiver, **settings)
        await self._engine.drop_padded_rows(self._num_tokens)
        await self._engine.release_start_up_memory()
        self.weight_version = 0
        return self.weight_version

    async def complete(self, example: TokenizedExample) -> Rollout:
        """One completion of the example's prompt, drawn with the example's seed.

        The logprobs are those of log_softmax(logits / temperature) over the vocabulary entries that count.
        """
        tokens: list[int] = []
        logprobs: list[float] = []
        version = self.weight_version
        with span("sample", sequences=1, prompt_tokens=len(example.prompt_tokens)) as sampling:
            async for new_tokens, new_logprobs in self._engine.generate(
                example.prompt_tokens,
                max_new_tokens=example.max_new_tokens,
                temperature=self._rollout.temperature,
                seed=example.seed,
            ):
                if not tokens:
                    # The oldest version that contributed: versions only grow, and a completion may have waited in
                    # the engine's queue through a load before its first token.
                    version = self.weight_version
                tokens.extend(new_tokens)
                logprobs.extend(new_logprobs)
            sampling.add(completion_tokens=len(tokens), weight_version=version)
        return self._sampled(example, tokens, logprobs, version)

    async def complete_together(self, examples: Sequence[TokenizedExample]) -> list[Rollout]:
        """What `complete` gives for each example, computed together and apart from everything else."""
        requests = [
            SampleRequest(
                prompt_tokens=example.prompt_tokens,
                max_new_tokens=example.max_new_tokens,
                temperature=self._rollout.temperature,
                top_p=1.0,
                seed=example.seed,
            )
            for example in examples
        ]
        async with self._together:
            version = self.weight_version
            with span("sample", sequences=len(requests), weight_version=version):
                completions = await self._engine.generate_together(requests, with_logprobs=True)
        return [
            self._sampled(example, *completion, version)
            for example, completion in zip(examples, completions, strict=True)
        ]

    async def sample_together(self, requests: Sequence[SampleRequest]) -> list[tuple[int, ...]]:
        """The completions of all requests, computed together and apart from everything else."""
        async with self._together:
            completions = await self._engine.generate_together(requests, with_logprobs=False)
        return [tuple(tokens) for tokens, _ in completions]

    async def read_together(
        self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> list[tuple[tuple[float, ...], tuple[int, ...]]]:
        """Logprobs [T] and ranks [T] of the completion behind each prompt, computed as `sample_together`."""
        async with self._together:
            read = await self._engine.logprobs_together(sequences)
        return [(tuple(logprobs), tuple(ranks)) for logprobs, ranks in read]

    def _sampled(
        self, example: TokenizedExample, tokens: Sequence[int], logprobs: Sequence[float], version: int
    ) -> Rollout:
        return Rollout(
            prompt_tokens=example.prompt_tokens,
            completion_tokens=tuple(tokens),
            logprobs=tuple(logprobs),
            weight_version=version,
            truncated=tokens[-1] not in self._eos_token_ids,
            num_sampled=len(tokens),
        )

    async def answer(self, prompt_tokens: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        """The greedy completion; its last token is an end-of-sequence token unless it was cut."""
        outputs = self._engine.generate(
            prompt_tokens, max_new_tokens=max_new_tokens, temperature=0.0, with_logprobs=False
        )
        with span("answer", sequences=1, weight_version=self.weight_version):
            return tuple([token async for tokens, _ in outputs for token in tokens])

    async def sample(
        self, prompt_tokens: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, seed: int
    ) -> tuple[int, ...]:
        """A completion drawn as asked, whatever the settings of rollouts are; its end is that of `answer`."""
        outputs = self._engine.generate(
            prompt_tokens,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            with_logprobs=False,
        )
        return tuple([token async for tokens, _ in outputs for token in tokens])

    async def logprobs(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, ...]:
        """Logprobs [T] of a given completion at temperature 1, whatever the sampling temperature is."""
        logprobs, _ = await self._engine.logprobs(prompt_tokens, completion_tokens)
        return tuple(logprobs)

    async def likelihood(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, bool]:
        """Logprob [nats] of a given completion as a whole, and whether it is the greedy one."""
        logprobs, ranks = await self._engine.logprobs(prompt_tokens, completion_tokens)
        return sum(logprobs), all(rank == 1 for rank in ranks)

    async def load_weights(self, publication: Publication) -> int:
        """Replaces the weights in place; open completions pause and go on with the new ones.

        A failure in between leaves the engine paused with half of its weights: the error ends the run.
        """
        with span("load weights", weight_version=publication.version):
            return await self._load_weights(publication)

    async def _load_weights(self, publication: Publication) -> int:
        async with self._loading, self._together:
            await self._engine.pause()
            await self._engine.load_weights(publication)
            # Before generation goes on: the first token after it already counts as the new version's.
            self.weight_version = publication.version
            await self._engine.resume()
        return self.weight_version

    def checksum(self, publication: Publication) -> tuple[str, str]:
        """This worker's name, and what it reads of a publication, which it does not load."""
        return self.name, checksum(publication)

    async def sleep(self) -> None:
        """See `Worker.sleep`; the weights wait in host memory, and the KV cache is lost with all prefixes in it."""
        if hasattr(self, "_engine"):
            await self._engine.sleep()

    async def wake(self) -> None:
        """See `Worker.wake`."""
        if hasattr(self, "_engine"):
            await self._engine.wake()

    async def connect(self, meeting: Meeting, first_rank: int) -> None:
        """Joins the learner, which pushes weights from now on, with this engine's ranks from `first_rank`."""
        await self._engine.connect(meeting, first_rank)

    async def status(self) -> WorkerStatus:  # type: ignore[override]  # Ray's caller waits for either
        """See `Worker.status`; the GPU is used by the engine's processes."""
        return replace(super().status(), peak_gpu_memory_gib=await self._engine.peak_gpu_memory_gib())

    def close(self) -> None:
        """Ends the engine's processes."""
        if hasattr(self, "_engine"):  # not where it could not start
            self._engine.close()
