"""The pod templates of head and workers: one image, one volume, one environment, without privileges."""

import math
from typing import Any

from sdft_ray.config import RunConfig, TargetConfig
from sdft_ray.config.target import RUN_FOLDER, SHARED_MEMORY
from sdft_ray.targets.pods import PodGroup

CONTAINER = "ray"
# By name, for the head's service, the NetworkPolicy and the PodMonitor.
HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
WORKER_PORTS = {"metrics": 8080}
SHARED_MEMORY_BESIDE_STORE_GIB = 8  # of vLLM's and torch's own processes
JOB_LABEL = "sdft-ray/job"
STOP = "ray stop"
CLOSING_S = 10  # of a pod's grace, behind its last worker


def head_template(cfg: RunConfig, name: str) -> dict[str, Any]:
    """The head: driver, GCS and dashboard, and no worker of the job."""
    target = cfg.target
    return _template(cfg, name, str(target.head_cpus), target.head_memory_gib, {}, HEAD_PORTS)


def worker_template(cfg: RunConfig, name: str, group: PodGroup) -> dict[str, Any]:
    """One worker pod of a group."""
    target = cfg.target
    memory_gib = target.memory_gib + group.gpus * target.memory_gib_per_gpu
    gpus = {target.gpu_resource: str(group.gpus)} if group.gpus else {}
    template = _template(cfg, name, str(group.cpus), memory_gib, gpus, WORKER_PORTS)
    if group.name == "rollout" and cfg.cluster.rollout.is_elastic:
        template["spec"]["containers"][0]["lifecycle"] = _before_end(f"{_drain(cfg)}; {STOP}")
    if target.node_selector:
        template["spec"]["nodeSelector"] = dict(target.node_selector)
    if target.tolerations:
        template["spec"]["tolerations"] = list(target.tolerations)
    return template


def job_labels(name: str) -> dict[str, str]:
    """What every object of a job carries, and what its policies select by."""
    return {"app.kubernetes.io/name": "sdft-ray", "app.kubernetes.io/instance": name, JOB_LABEL: name}


def _template(
    cfg: RunConfig, name: str, cpus: str, memory_gib: float, gpus: dict[str, str], ports: dict[str, int]
) -> dict[str, Any]:
    target = cfg.target
    resources = {"cpu": cpus, "memory": quantity(memory_gib), **gpus}
    container = {
        "name": CONTAINER,
        "image": target.image,
        "env": _environment(target),
        "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
        # Requests equal limits: a pod that is promised its memory is the last to be evicted.
        "resources": {"limits": resources, "requests": dict(resources)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "lifecycle": _before_end(STOP),
        "volumeMounts": [
            {"name": "storage", "mountPath": target.storage.path},
            {"name": "run", "mountPath": RUN_FOLDER, "readOnly": True},
            {"name": "shared-memory", "mountPath": SHARED_MEMORY},
        ],
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",  # KubeRay replaces pods, and a restarted container would be a stranger to its GCS
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": target.user_id,
            "runAsGroup": target.user_id,
            "fsGroup": target.user_id,  # may write to the claim
            "fsGroupChangePolicy": "OnRootMismatch",  # a volume with many checkpoints is not walked at every start
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": _grace_s(cfg),
        "containers": [container],
        "volumes": [
            {"name": "storage", "persistentVolumeClaim": {"claimName": target.storage.claim}},
            {"name": "run", "configMap": {"name": name}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": quantity(_shared_memory(cfg))}},
        ],
    }
    if target.service_account:
        spec["serviceAccountName"] = target.service_account
    if target.image_pull_secret:
        spec["imagePullSecrets"] = [{"name": target.image_pull_secret}]
    return {"metadata": {"labels": job_labels(name)}, "spec": spec}


def _grace_s(cfg: RunConfig) -> int:
    """How long a pod lives on once it is to end: for the step's end, and the checkpoint behind it."""
    return int(cfg.faults.grace_s) + 60


def _drain(cfg: RunConfig) -> str:
    """Tells Ray that a pod is to end, and waits. With its last worker its Ray node ends, and the container with it."""
    remaining_s = _grace_s(cfg) - CLOSING_S
    return (
        "ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message pod-ends "
        f"--deadline-remaining-seconds {remaining_s} && sleep {remaining_s}"
    )


def _before_end(command: str) -> dict[str, Any]:
    return {"preStop": {"exec": {"command": ["/bin/sh", "-c", command]}}}


def _environment(target: TargetConfig) -> list[dict[str, Any]]:
    """The variables of every process; secrets by reference, so that no manifest holds one."""
    plain = {"HF_HOME": f"{target.storage.path.rstrip('/')}/.cache/huggingface", **target.environment}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        *(
            {"name": name, "valueFrom": {"secretKeyRef": dict(zip(("name", "key"), place.split("/", 1), strict=True))}}
            for name, place in target.secrets.items()
        ),
    ]


def _shared_memory(cfg: RunConfig) -> float:
    return cfg.target.shared_memory_gib or cfg.cluster.object_store_gib + SHARED_MEMORY_BESIDE_STORE_GIB


def quantity(gib: float) -> str:
    """A number of GiB as Kubernetes writes it, in whole MiB, which 0 alone makes 0 of."""
    return f"{int(gib)}Gi" if gib == int(gib) else f"{math.ceil(gib * 1024)}Mi"
