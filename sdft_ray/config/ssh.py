"""Settings of a job on bare machines; a module of its own, as those of Slurm are."""

from dataclasses import dataclass, field

from sdft_ray.config.validation import at_least, first_port


@dataclass(kw_only=True)
class SshConfig:
    """The machines that are reached over ssh, and what the job's script does on them."""

    hosts: str = ""  # a file with a line a host: [USER@]HOST[:PORT] [gpus=8] [address=10.0.0.1]; the first is the head
    setup: list[str] = field(
        default_factory=list
    )  # shell lines on every host before Ray starts, such as source /shared/venv/bin/activate
    grace_s: int = 120  # seconds a driver is told to end before mode=stop ends it
    cpus_per_node: int = 0  # 0 is what the cluster file's workers of a node add up to, and one for the driver
    port: int = 6379  # the first of 1000, of which Ray's head takes one by the job's id

    def __post_init__(self) -> None:
        for key in ("grace_s", "cpus_per_node"):
            at_least(0, f"target.ssh.{key}", getattr(self, key))
        first_port("target.ssh.port", self.port)
