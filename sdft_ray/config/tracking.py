"""Where metrics go besides metrics.jsonl, and which steps are looked at closely."""

from dataclasses import dataclass, field
from enum import Enum, auto

from sdft_ray.config.alarms import AlarmsConfig
from sdft_ray.config.validation import at_least, require


class Wandb(Enum):
    """Whether Weights & Biases is told; in the spelling of its own modes."""

    disabled = auto()
    offline = auto()  # files in the run folder, no account needed
    online = auto()


@dataclass(kw_only=True)
class TrackingConfig:
    """Where metrics go besides metrics.jsonl."""

    wandb: Wandb = Wandb.disabled
    wandb_project: str = "sdft_ray"
    wandb_group: str = ""  # such as an experiment's name; "" is the run's, without its seed
    wandb_artifact: bool = False  # the final model goes to wandb as an artifact; wants tracking.wandb
    tensorboard: bool = False  # event files in the run folder's tensorboard/, for `tensorboard --logdir runs`
    trace_steps: list[int] = field(default_factory=list)  # steps written to traces/ as Chrome traces, for Perfetto
    num_samples: int = 2  # samples a step written to samples.jsonl with their per-token divergence
    alarms: AlarmsConfig = field(default_factory=AlarmsConfig)

    def __post_init__(self) -> None:
        at_least(0, "tracking.num_samples", self.num_samples)
        require(
            all(step >= 1 for step in self.trace_steps),
            "tracking.trace_steps",
            self.trace_steps,
            "names a step below 1, and the first step is 1",
            "set it to steps such as [10,11]",
        )
        require(
            not self.wandb_artifact or self.wandb is not Wandb.disabled,
            "tracking.wandb_artifact",
            self.wandb_artifact,
            "asks for an artifact at wandb, but tracking.wandb=disabled",
            "set tracking.wandb=online or offline, or tracking.wandb_artifact=false",
        )
