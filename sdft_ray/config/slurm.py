"""Settings of a batch job of Slurm; a module of its own, since those of pods fill `target`."""

import re
from dataclasses import dataclass, field

from sdft_ray.config.validation import at_least, first_port, require

# Minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS.
TIME = re.compile(r"(\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}|UNLIMITED|INFINITE|)", re.IGNORECASE)
NAME = re.compile(r"[\w.,:@+-]*", re.ASCII)


@dataclass(kw_only=True)
class SlurmConfig:
    """What sbatch is asked for, and what the job's script does."""

    partition: str = ""  # "" is Slurm's default, as with the two below
    account: str = ""
    qos: str = ""
    time_limit: str = ""  # as sbatch takes it, such as 2-00:00:00; a number alone is minutes
    requeue: bool = True  # begin anew after a preemption or a lost node, and go on from the newest checkpoint
    grace_s: int = 120  # seconds a driver is told to end before a time limit, a preemption, or mode=stop ends it
    gpu_option: str = "gpus-per-node"  # how GPUs are asked for: gpus-per-node, or gres for --gres=gpu:N
    cpus_per_node: int = 0  # 0 is what the cluster file's workers of a node add up to, and one for the driver
    memory_gib_per_node: int = 0  # 0 is Slurm's default
    options: list[str] = field(default_factory=list)  # more lines for sbatch, such as --exclusive
    setup: list[str] = field(
        default_factory=list
    )  # shell lines before Ray starts, such as module load; nodes take over what they export
    apptainer: str = ""  # an image, in which every command of the job runs
    apptainer_options: list[str] = field(default_factory=lambda: ["--nv"])  # of apptainer exec
    port: int = 6379  # the first of 1000, of which Ray's head takes one by the job's id

    def __post_init__(self) -> None:
        for key in ("grace_s", "cpus_per_node", "memory_gib_per_node"):
            at_least(0, f"target.slurm.{key}", getattr(self, key))
        first_port("target.slurm.port", self.port)
        for key in ("partition", "account", "qos"):
            remedy = "write it as sacctmgr and sinfo show it, with commas between several partitions"
            is_name = bool(NAME.fullmatch(getattr(self, key)))
            require(is_name, f"target.slurm.{key}", repr(getattr(self, key)), "is no name of Slurm", remedy)
        require(
            bool(TIME.fullmatch(self.time_limit)),
            "target.slurm.time_limit",
            repr(self.time_limit),
            "is no time of sbatch",
            "write HH:MM:SS or D-HH:MM:SS; a number alone is minutes",
        )
        require(
            self.gpu_option in ("gpus-per-node", "gres"),
            "target.slurm.gpu_option",
            self.gpu_option,
            "is no way to ask for GPUs",
            "choose gpus-per-node or gres",
        )
        for option in self.options:
            require(
                option.startswith("--") and "\n" not in option,
                "target.slurm.options",
                option,
                "is no option of sbatch",
                "write it as --NAME=VALUE",
            )
