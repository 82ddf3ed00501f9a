"""Settings of the alarms; the rules they belong to are written down in sdft_ray/tracking/alarm_rules.py."""

from dataclasses import dataclass

from sdft_ray.config.validation import at_least, require, share


@dataclass(kw_only=True)
class AlarmsConfig:
    """When a run is said to go wrong; entropy, length and divergence are held against the mean of the first steps."""

    stop: bool = False  # end the run behind the first step that raises an alarm, with a checkpoint and an error
    patience: int = 5  # steps in a row whose running mean has to be past a bound; 0 turns alarms off
    reference_steps: int = 10  # the first steps of a run, whose mean everything later is held against
    memory: float = 0.8  # share of the old running mean that a step keeps, in [0, 1): 0.8 remembers about 5 steps
    entropy_share: float = 0.2  # student entropy below this share of its reference has collapsed
    length_share: float = 0.2  # completions shorter than this share of their reference have collapsed
    length_factor: float = 1.5  # completions this many times their reference, and ...
    truncated_share: float = 0.5  # ... more often cut at the limit than this, run away
    divergence_factor: float = 2.0  # divergence above this many times its reference, and ...
    divergence_nats: float = 0.1  # ... above this grows: near zero a factor says nothing
    mismatch_nats: float = 1.0  # sampler and learner, one token of a step, on-policy: rounding in bf16 reaches 0.5
    counted_share: float = 0.01  # completion tokens that carry loss, below which a step learns next to nothing
    grad_norm: float = 1e-7  # a gradient norm below this, before clipping, is that of nothing to learn
    spike_factor: float = 10.0  # loss or divergence of one step above this many times its running mean, and ...
    spike_nats: float = 1.0  # ... above this leap

    def __post_init__(self) -> None:
        at_least(0, "tracking.alarms.patience", self.patience)
        at_least(1, "tracking.alarms.reference_steps", self.reference_steps)
        require(
            0 <= self.memory < 1,
            "tracking.alarms.memory",
            self.memory,
            "must lie in [0, 1): at 1 no step would ever be heard",
            "set it to 1 - 1 / (steps to remember)",
        )
        share("tracking.alarms.entropy_share", self.entropy_share)
        share("tracking.alarms.length_share", self.length_share)
        share("tracking.alarms.truncated_share", self.truncated_share)
        at_least(1, "tracking.alarms.length_factor", self.length_factor)
        at_least(1, "tracking.alarms.divergence_factor", self.divergence_factor)
        at_least(0, "tracking.alarms.divergence_nats", self.divergence_nats)
        at_least(0, "tracking.alarms.mismatch_nats", self.mismatch_nats)
        share("tracking.alarms.counted_share", self.counted_share)
        at_least(0, "tracking.alarms.grad_norm", self.grad_norm)
        at_least(1, "tracking.alarms.spike_factor", self.spike_factor)
        at_least(0, "tracking.alarms.spike_nats", self.spike_nats)
