"""Which machines a run asks for. Files under conf/cluster hold numbers only; they are the same for every method."""

import math
from dataclasses import dataclass, field

from sdft_ray.config.validation import at_least, positive, require, share

ROLE_LABEL = "sdft-ray/role"  # of Ray nodes, where cluster.role_labels=true
ANY_ROLE = "workers"  # the label's value on nodes that hold every role


@dataclass(kw_only=True)
class RolePlacement:
    """The workers of one role and what each of them gets."""

    num_workers: int = 1
    max_workers: int | None = None  # rollout only: most that serve as Ray nodes come and go; null fixes num_workers
    gpus_per_worker: float = 0  # 0 runs the role on the CPU; a share below 1 puts several workers on one GPU
    cpus_per_worker: int = 1  # logical CPUs that Ray reserves for a worker
    threads_per_worker: int = 1  # arithmetic threads of a worker; more threads than cores in all cost a factor of ten

    @property
    def is_elastic(self) -> bool:
        """True when workers may join and leave the running job."""
        return self.max_workers is not None

    @property
    def most_workers(self) -> int:
        """How many may serve at a time."""
        return self.num_workers if self.max_workers is None else self.max_workers

    @property
    def device(self) -> str:
        """Where the workers of the role compute: "cpu" or "cuda"."""
        return "cuda" if self.gpus_per_worker else "cpu"

    @property
    def tensor_parallel_size(self) -> int:
        """GPUs one engine is spread over."""
        return max(1, int(self.gpus_per_worker))

    @property
    def shares_device(self) -> bool:
        """Whether a worker computes in memory that others use, too: the host's, or that of a GPU it has a part of."""
        return self.gpus_per_worker < 1

    @property
    def gpu_share(self) -> float:
        """The part of each of its GPUs that a worker may fill."""
        return min(1.0, self.gpus_per_worker) if self.gpus_per_worker else 1.0


@dataclass(kw_only=True)
class HardwareConfig:
    """Peak figures of the machines, which the planner reckons with; a run itself does not read them.

    Of one GPU, or of a whole node where its roles compute on the CPU.
    """

    name: str = "two CPU cores"
    memory_gib: float = 16.0
    tflops_bf16: float = 0.06  # dense, without sparsity
    tflops_fp32: float = 0.12
    memory_gb_per_s: float = 15.0  # decimal gigabytes, as vendors count
    intra_node_gb_per_s: float = 1.0  # between two workers of one node, in one direction
    inter_node_gb_per_s: float = 1.0  # between two nodes, for each GPU, in one direction
    host_memory_gib: float = 0.0  # of a node with GPUs; 0 where it is not known, and then no limit
    host_memory_gb_per_s: float = 100.0  # of that memory, in which learner.offload updates the weights
    host_gb_per_s: float = 1.0  # between a worker and the object store in its host's memory, in one direction
    attainable_share: float = 0.4  # of every peak figure, what a well-fed run reaches

    def __post_init__(self) -> None:
        for key in (
            "memory_gib",
            "tflops_bf16",
            "tflops_fp32",
            "memory_gb_per_s",
            "intra_node_gb_per_s",
            "inter_node_gb_per_s",
            "host_gb_per_s",
            "host_memory_gb_per_s",
            "attainable_share",
        ):
            positive(f"cluster.hardware.{key}", getattr(self, key))
        at_least(0, "cluster.hardware.host_memory_gib", self.host_memory_gib)
        share("cluster.hardware.attainable_share", self.attainable_share)


@dataclass(kw_only=True)
class ClusterConfig:
    """Nodes and the placement of the three roles on them."""

    name: str = "custom"
    num_nodes: int = 1
    gpus_per_node: int = 0
    object_store_gib: float = 4.0  # of a Ray started here, at most 30 % of memory; weights and payloads use it
    dashboard: bool = True  # of a Ray started here: nine processes, 0.2 GiB together
    role_labels: bool = (
        False  # whether workers go to Ray nodes with the label sdft-ray/role of their role, and no others
    )
    turns: bool = False  # sampling, scoring, learning in turns on one device: each role fills it, the others sleep
    rollout: RolePlacement = field(default_factory=RolePlacement)
    teacher: RolePlacement = field(default_factory=RolePlacement)
    learner: RolePlacement = field(default_factory=RolePlacement)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)

    def __post_init__(self) -> None:
        at_least(1, "cluster.num_nodes", self.num_nodes)
        at_least(0, "cluster.gpus_per_node", self.gpus_per_node)
        at_least(0.1, "cluster.object_store_gib", self.object_store_gib)
        for role, placement in self.placements().items():
            at_least(1, f"cluster.{role}.num_workers", placement.num_workers)
            _check_elastic(role, placement)
            at_least(0, f"cluster.{role}.gpus_per_worker", placement.gpus_per_worker)
            require(
                placement.gpus_per_worker < 1 or placement.gpus_per_worker == int(placement.gpus_per_worker),
                f"cluster.{role}.gpus_per_worker",
                placement.gpus_per_worker,
                "is neither a share of one GPU nor a whole number of GPUs",
                "choose a value below 1, or a whole number",
            )
            at_least(1, f"cluster.{role}.cpus_per_worker", placement.cpus_per_worker)
            at_least(1, f"cluster.{role}.threads_per_worker", placement.threads_per_worker)
        require(
            self.learner.gpus_per_worker <= 1,
            "cluster.learner.gpus_per_worker",
            self.learner.gpus_per_worker,
            "a learner worker is one DeepSpeed rank and drives one GPU",
            "set cluster.learner.gpus_per_worker=1 and raise cluster.learner.num_workers",
        )
        require(
            self.learner.num_workers == 1 or self.learner.gpus_per_worker in (0, 1),
            "cluster.learner.gpus_per_worker",
            self.learner.gpus_per_worker,
            f"puts several of {self.learner.num_workers} ranks on one GPU, which NCCL refuses",
            "give every learner worker a GPU of its own, or set cluster.learner.num_workers=1",
        )
        require(
            self.num_gpus <= self.num_nodes * self.gpus_per_node,
            "cluster",
            self.name,
            f"its roles need {self.num_gpus:g} GPUs but {self.num_nodes} x {self.gpus_per_node} are declared",
            "lower num_workers or gpus_per_worker of a role, or raise cluster.num_nodes",
        )

        if self.turns:
            self._check_turns()

    def _check_turns(self) -> None:
        """Refuses roles that do not share one device."""
        require(
            self.num_nodes == 1,
            "cluster.num_nodes",
            self.num_nodes,
            "has memory that cluster.turns=true cannot hand from one role to another",
            "set cluster.num_nodes=1, or cluster.turns=false",
        )
        for role, placement in self.placements().items():
            require(
                placement.num_workers == 1,
                f"cluster.{role}.num_workers",
                placement.num_workers,
                "puts several workers on the one device that roles share with cluster.turns=true",
                f"set cluster.{role}.num_workers=1, or cluster.turns=false",
            )
            require(
                placement.gpus_per_worker < 1,
                f"cluster.{role}.gpus_per_worker",
                placement.gpus_per_worker,
                "takes a GPU of its own, but with cluster.turns=true all roles share one",
                f"set cluster.{role}.gpus_per_worker=0.3: a role may fill the GPU in its turn all the same",
            )
        require(
            not self.rollout.is_elastic,
            "cluster.rollout.max_workers",
            self.rollout.max_workers,
            "has workers join on other devices than the one that roles share with cluster.turns=true",
            "leave it out, or set cluster.turns=false",
        )
        require(
            self.num_gpus <= 1,
            "cluster.turns",
            self.turns,
            f"shares one device, but the roles ask for {self.num_gpus:g} GPUs in all and would lie on several",
            "set gpus_per_worker=0.3 of every role, or cluster.turns=false",
        )
        devices = {placement.device for placement in self.placements().values()}
        require(
            len(devices) == 1,
            "cluster.turns",
            self.turns,
            "has roles on a CPU and others on a GPU, which do not share a device",
            "give every role gpus_per_worker=0.3, or none, or set cluster.turns=false",
        )

    def check_deterministic(self, deterministic: bool) -> None:
        """Refuses workers that come and go in a run that promises the same bits."""
        most = self.rollout.max_workers
        require(
            not deterministic or most is None,
            "deterministic",
            deterministic,
            f"cannot hold with cluster.rollout.max_workers={most}: when workers join and leave is a matter of time",
            "leave max_workers out, or set deterministic=false",
        )

    def fills_device(self, role: str) -> bool:
        """True when a worker of the role may take all memory of its GPUs that is free when it starts."""
        placement = self.placements()[role]
        return not placement.shares_device or (self.turns and placement.device == "cuda")

    def gpu_share(self, role: str) -> float:
        """The part of each of its GPUs that a worker of the role may fill."""
        return 1.0 if self.turns else self.placements()[role].gpu_share

    def placements(self) -> dict[str, RolePlacement]:
        """The placement of each role by its name."""
        return {"rollout": self.rollout, "teacher": self.teacher, "learner": self.learner}

    def label_of(self, role: str) -> str:
        """The value of ROLE_LABEL on the nodes of a role's workers; roles that share GPUs share nodes."""
        shared = any(0 < placement.gpus_per_worker < 1 for placement in self.placements().values())
        return ANY_ROLE if shared else role

    def scores_on_sampling_cores(self, num_cores: int) -> bool:
        """Whether sampling and scoring together want more threads than a node of `num_cores` has."""
        roles = (self.rollout, self.teacher)
        num_threads = sum(role.num_workers * role.threads_per_worker for role in roles)
        return self.num_gpus == 0 and num_threads > num_cores * self.num_nodes

    @property
    def num_gpus(self) -> float:
        """GPUs of all roles together."""
        return sum(role.num_workers * role.gpus_per_worker for role in self.placements().values())

    @property
    def num_cpus(self) -> int:
        """Logical CPUs of all roles together."""
        return sum(role.num_workers * role.cpus_per_worker for role in self.placements().values())

    def cpus_of_node(self, key: str, given: int) -> int:
        """CPUs that Ray is given on each node of a job: what a setting says, or 0 for those of workers and driver.

        Raises:
            ConfigError: the workers need more, and would wait for them for ever.
        """
        needed = math.ceil(self.num_cpus / self.num_nodes)
        problem = f"is less than the {needed} that the workers of {self.name} need on a node"
        require(not given or given >= needed, key, given, problem, f"set {key}=0, or to {needed} or more")
        return given or needed + 1


def _check_elastic(role: str, placement: RolePlacement) -> None:
    """Refuses a role whose workers cannot come and go, and fewer than it starts with."""
    if placement.max_workers is None:
        return
    require(
        role == "rollout",
        f"cluster.{role}.max_workers",
        placement.max_workers,
        "has workers join and leave, which those of rollout alone can",
        f"leave it out, or set cluster.{role}.num_workers",
    )
    at_least(placement.num_workers, f"cluster.{role}.max_workers", placement.max_workers)
