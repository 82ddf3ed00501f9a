"""Settings of the vLLM rollout workers."""

from dataclasses import dataclass

from sdft_ray.config.validation import at_least, positive, require


@dataclass(kw_only=True)
class RolloutConfig:
    """How completions are sampled."""

    temperature: float = 1.0  # under a teacher target the learner divides both sides' logits by it, too
    top_p: float = 1.0  # anything below 1 trains on another distribution than it scores: refused
    max_new_tokens: int = 1024
    max_concurrent: int = 64  # completions in flight in one engine
    async_scheduling: bool = True  # on GPUs, plan an engine's step while the last one runs; false if deterministic=true
    gpu_memory_share: float = 0.9  # of the worker's part of its GPUs, for weights and KV cache
    kv_cache_gib: float = 1.0  # KV cache on a CPU, or on a GPU that it shares with other workers at the same time

    def __post_init__(self) -> None:
        positive("rollout.temperature", self.temperature)
        at_least(1, "rollout.max_new_tokens", self.max_new_tokens)
        at_least(1, "rollout.max_concurrent", self.max_concurrent)
        positive("rollout.gpu_memory_share", self.gpu_memory_share)
        positive("rollout.kv_cache_gib", self.kv_cache_gib)
        require(
            self.top_p == 1.0,
            "rollout.top_p",
            self.top_p,
            "completions from a cut distribution are not samples of the student that is scored",
            "set rollout.top_p=1.0",
        )
