"""Settings of where a job runs: on this machine, or as a job of a Ray cluster, of KubeRay, of Slurm or of hosts."""

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from sdft_ray.config.kubernetes import (
    LARGEST_INT32,
    SERVICE_NAME,
    check_image,
    check_label_value,
    check_mount,
    check_namespace,
    check_object_name,
    check_resource,
    check_secret,
    check_selector,
    check_tolerations,
)
from sdft_ray.config.slurm import SlurmConfig
from sdft_ray.config.ssh import SshConfig
from sdft_ray.config.validation import at_least, positive, require

ADDRESS = re.compile(r"https?://[^/\s]+(/\S*)?")
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RUN_FOLDER, SHARED_MEMORY = "/etc/sdft_ray", "/dev/shm"  # where every pod has the run's settings, and its own memory


class TargetKind(Enum):
    """What runs the job."""

    HERE = auto()  # this command, on this machine or on the Ray cluster at RAY_ADDRESS
    RAY = auto()  # a Ray cluster that is there, through its dashboard
    KUBERAY = auto()  # KubeRay: one RayJob, with a Ray cluster of its own or one that is there
    SLURM = auto()  # Slurm: one batch job, with a Ray cluster of its own
    SSH = auto()  # bare machines of a hosts file, with a Ray cluster of its own


class Queue(Enum):
    """What admits the pods of a job together."""

    NONE = auto()
    KUEUE = auto()
    VOLCANO = auto()
    KAI = auto()


class Submission(Enum):
    """What submits the entrypoint. KubeRay's K8sJobMode takes the end of a log stream for the end of the job."""

    HTTP = auto()  # the operator, over the dashboard's port
    SIDECAR = auto()  # a container beside the head


@dataclass(kw_only=True)
class VolumeConfig:
    """A claim that every pod mounts."""

    claim: str = ""  # of a PersistentVolumeClaim that all nodes can write to
    path: str = "/storage"  # where the pods see it
    create_gib: float = 0  # renders a claim of this size too; 0 takes one that is there
    storage_class: str = ""  # of the claim that is rendered; "" is the cluster's default


@dataclass(kw_only=True)
class LifecycleConfig:
    """How long a job may take, how often it is begun anew, and what remains of it."""

    max_retries: int = 3  # new clusters after a failure, each of which goes on from the newest checkpoint
    start_timeout_s: int = 3600  # until the job runs: images, queue and nodes
    timeout_s: int = 7 * 24 * 3600  # of everything
    keep_cluster_s: int = 600  # seconds a cluster stays after the job's end, to be looked at


@dataclass(kw_only=True)
class TargetConfig:
    """Where a job runs, and what it is given there. All but `kind` is read where `kind` is not HERE."""

    kind: TargetKind = TargetKind.HERE
    job: str = "train"  # what it does there: train, evaluate or check_teacher
    watch: bool = True  # mode=submit: print the job's log and end as the job ends; false ends once it is taken
    patience_s: float = 1800  # how long nobody may answer while a job is followed, which goes on meanwhile
    address: str = "http://127.0.0.1:8265"  # RAY: of the dashboard
    python: str = ""  # RAY, SLURM, SSH: the interpreter that has the packages; "" is the `python` found there
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    ssh: SshConfig = field(default_factory=SshConfig)
    kube_context: str = ""  # KUBERAY: of kubectl; "" is its current one
    image: str = ""  # with this package and Ray in it; see docker/
    ray_version: str = ""  # of that image; "" is that of this installation
    namespace: str = "default"
    cluster_name: str = ""  # a RayCluster that is there; "" makes one for the job and removes it
    submission: Submission = Submission.HTTP
    storage: VolumeConfig = field(default_factory=VolumeConfig)  # holds runs_dir, and the hub's cache in .cache
    secrets: dict[str, str] = field(default_factory=dict)  # environment variable -> SECRET/KEY
    environment: dict[str, str] = field(default_factory=dict)  # environment variable -> value, which is no secret
    image_pull_secret: str = ""
    service_account: str = ""
    user_id: int = 1000  # of every process, never 0
    head_cpus: int = 4
    head_memory_gib: float = 16
    memory_gib: float = 16  # of a worker pod, and
    memory_gib_per_gpu: float = 64  # for each of its GPUs
    shared_memory_gib: float = 0  # of a pod's /dev/shm, part of its memory; 0 is cluster.object_store_gib and 8 more
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = field(default_factory=dict)  # of worker pods
    tolerations: list[Any] = field(default_factory=list)  # of worker pods
    queue: Queue = Queue.NONE
    queue_name: str = ""
    token: bool = True  # Ray asks everybody for the cluster's token
    token_secret: str = ""  # of your own, under the key auth_token; "" has the operator make one
    network_policy: bool = True  # none but the job's pods, the operator and the monitoring reach its ports
    operator_namespace: str = "default"
    monitoring_namespace: str = ""  # renders a PodMonitor, and lets its Prometheus in
    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)
    crds: str = ""  # mode=check: KubeRay's ray.io_rayjobs.yaml (or .yaml.gz)

    def __post_init__(self) -> None:
        require(
            self.job in ("train", "evaluate", "check_teacher"),
            "target.job",
            self.job,
            "is not what a job can do",
            "choose train, evaluate or check_teacher",
        )
        for key in ("head_memory_gib", "memory_gib", "patience_s"):
            positive(f"target.{key}", getattr(self, key))
        for key, least in (("memory_gib_per_gpu", 0), ("shared_memory_gib", 0), ("head_cpus", 1)):
            at_least(least, f"target.{key}", getattr(self, key))
        is_user = 0 < self.user_id <= LARGEST_INT32
        require(is_user, "target.user_id", self.user_id, "is root, or no user's", "set it to 1000")
        require(
            bool(ADDRESS.fullmatch(self.address)),
            "target.address",
            self.address,
            "is no address of a dashboard",
            "write http://HOST:8265, as 'ray start --head' prints it",
        )

    def check_pods(self) -> None:
        """Refuses what no pod can be made of; asking after a job needs none of it.

        Raises:
            ConfigError: names the setting.
        """
        self._check_names()
        self._check_storage()
        self._check_environment()
        self._check_lifecycle()

    def _check_names(self) -> None:
        require(bool(self.image or self.cluster_name), "target.image", "''", "names no image", "set it; see docker/")
        if self.image:
            check_image("target.image", self.image)
        check_namespace("target.namespace", self.namespace)
        for key in ("operator_namespace", "monitoring_namespace"):
            value = getattr(self, key)
            if value or (key == "operator_namespace" and self.network_policy):
                check_namespace(f"target.{key}", value)
        require(
            not self.cluster_name or bool(SERVICE_NAME.fullmatch(self.cluster_name) and len(self.cluster_name) <= 63),
            "target.cluster_name",
            self.cluster_name,
            "is no name of a RayCluster",
            "use small letters, digits and - only, with a letter first",
        )
        for key in ("image_pull_secret", "service_account", "token_secret"):
            check_object_name(f"target.{key}", getattr(self, key))
        check_resource("target.gpu_resource", self.gpu_resource)
        check_selector("target.node_selector", self.node_selector)
        check_tolerations("target.tolerations", self.tolerations)
        check_label_value("target.queue_name", self.queue_name)
        require(
            self.token or not self.token_secret,
            "target.token_secret",
            self.token_secret,
            "holds a token, which target.token=false asks nobody for",
            "leave one of them out",
        )
        require(
            not (self.cluster_name and self.submission is Submission.SIDECAR),
            "target.submission",
            self.submission.name,
            f"is a container beside a new head, but target.cluster_name={self.cluster_name} has its own already",
            "set target.submission=HTTP",
        )
        require(
            (self.queue is Queue.NONE) == (not self.queue_name),
            "target.queue_name",
            repr(self.queue_name),
            f"does not go with target.queue={self.queue.name}",
            "set both, or neither",
        )
        require(
            self.queue is Queue.NONE or not self.cluster_name,
            "target.queue",
            self.queue.name,
            f"admits new pods, but target.cluster_name={self.cluster_name} has its own already",
            "set target.queue=NONE",
        )

    def _check_storage(self) -> None:
        if self.cluster_name:
            return
        storage = self.storage
        require(
            bool(storage.claim),
            "target.storage.claim",
            "''",
            "names no claim, and without one the run folder would go with its pod",
            "name a PersistentVolumeClaim, and set target.storage.create_gib to have it rendered",
        )
        check_object_name("target.storage.claim", storage.claim)
        check_object_name("target.storage.storage_class", storage.storage_class)
        check_mount("target.storage.path", storage.path, (RUN_FOLDER, SHARED_MEMORY))
        at_least(0, "target.storage.create_gib", storage.create_gib)
        require(
            bool(storage.create_gib) or not storage.storage_class,
            "target.storage.storage_class",
            storage.storage_class,
            f"is of a claim that is rendered, but {storage.claim} is to be there already",
            "set target.storage.create_gib to its size, or leave the class out",
        )

    def _check_environment(self) -> None:
        for key, names in (("secrets", self.secrets), ("environment", self.environment)):
            for name in names:
                require(
                    bool(ENVIRONMENT_NAME.fullmatch(name)),
                    f"target.{key}.{name}",
                    names[name] if key == "environment" else "...",
                    "is no name of an environment variable",
                    "use letters, digits and _",
                )
        for name, place in self.secrets.items():
            check_secret(f"target.secrets.{name}", place)
        both = sorted(set(self.secrets) & set(self.environment))
        require(
            not both,
            f"target.environment.{''.join(both[:1])}",
            "...",
            "is given as a secret too",
            "leave one of them out",
        )

    def _check_lifecycle(self) -> None:
        lifecycle = self.lifecycle
        for key, least in (("max_retries", 0), ("start_timeout_s", 1), ("timeout_s", 1), ("keep_cluster_s", 0)):
            at_least(least, f"target.lifecycle.{key}", getattr(lifecycle, key))
        require(
            lifecycle.start_timeout_s <= lifecycle.timeout_s,
            "target.lifecycle.start_timeout_s",
            lifecycle.start_timeout_s,
            f"is longer than all of target.lifecycle.timeout_s={lifecycle.timeout_s}",
            "lower it",
        )
