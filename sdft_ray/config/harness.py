"""Settings of the prior capabilities, which lm-evaluation-harness measures."""

from dataclasses import dataclass, field
from enum import Enum, auto

from sdft_ray.config.validation import at_least, require


class HarnessTask(Enum):
    """A benchmark, in the spelling of lm_eval."""

    hellaswag = auto()
    mmlu = auto()
    truthfulqa_mc1 = auto()
    winogrande = auto()
    humaneval = auto()
    ifeval = auto()
    gsm8k = auto()


# The paper's prior capabilities; their unweighted mean is what its tables show.
THE_SIX = frozenset(HarnessTask) - {HarnessTask.gsm8k}


@dataclass(kw_only=True)
class HarnessConfig:
    """What is measured before and after training, 0-shot and without a chat template, on the rollout workers."""

    tasks: list[HarnessTask] = field(default_factory=list)  # such as [hellaswag,mmlu]; none by default, for its time
    data: str = ""  # folder of their files; "" takes bench/ in $SDFT_RAY_DATA, and the hub's data where that is not set
    limit: int = 0  # the first N questions of each task, for a quick look (MMLU on the hub: of each subject); 0: all
    max_tokens: int = 4096  # of a prompt with its completion; a longer prompt loses its beginning, as in lm_eval
    allow_code_execution: bool = False  # humaneval runs what the model writes, as this user and with no sandbox

    def __post_init__(self) -> None:
        at_least(0, "harness.limit", self.limit)
        at_least(2, "harness.max_tokens", self.max_tokens)
        require(
            self.allow_code_execution or HarnessTask.humaneval not in self.tasks,
            "harness.allow_code_execution",
            self.allow_code_execution,
            "harness.tasks names humaneval, which runs programs that the model writes, on this machine, as this user",
            "set harness.allow_code_execution=true where that is acceptable, such as in a container, or leave it out",
        )
