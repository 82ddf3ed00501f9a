"""The objects of one job: RayJob, ConfigMap, and what it asks for besides. A pure function of the settings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any

import yaml

from sdft_ray.config import Queue, RunConfig, Submission, TargetConfig
from sdft_ray.config.cluster import ROLE_LABEL
from sdft_ray.config.kubernetes import SERVICE_NAME
from sdft_ray.config.target import RUN_FOLDER
from sdft_ray.errors import ConfigError
from sdft_ray.targets.elsewhere import for_elsewhere, is_absolute
from sdft_ray.targets.identity import RUN_FILE, Files, job_files
from sdft_ray.targets.jobs import job_name, name_of
from sdft_ray.targets.kuberay.network import network_policy, pod_monitor
from sdft_ray.targets.kuberay.operator_rules import KUEUE_LABEL
from sdft_ray.targets.kuberay.pod_template import head_template, job_labels, quantity, worker_template
from sdft_ray.targets.pods import PodGroup, pod_groups
from sdft_ray.targets.run_file import OPTION, Run

Object = dict[str, Any]
SUBMISSION_MODES = {Submission.HTTP: "HTTPMode", Submission.SIDECAR: "SidecarMode"}
SCHEDULERS = {Queue.VOLCANO: "volcano", Queue.KAI: "kai-scheduler"}
SCHEDULER_LABEL = "ray.io/scheduler-name"
QUEUE_LABELS = {
    Queue.KUEUE: KUEUE_LABEL,
    Queue.VOLCANO: "volcano.sh/queue-name",
    Queue.KAI: "kai.scheduler/queue",
}


def render(runs: Sequence[Run]) -> list[Object]:
    """The objects of a job that does these runs, in the order in which a cluster needs them.

    Args:
        runs: the checked settings of every stage of every run.

    Raises:
        ConfigError: a setting that is right here has no meaning in a pod; with the key, the value and the remedy.
    """
    _, cfg = runs[0][0]
    cfg.target.check_pods()
    _check_elastic(cfg)
    name = _object_name(name_of(runs))
    objects = [_config_map(name, cfg.target, pod_files(runs))]
    if not cfg.target.cluster_name:  # what is there has its own
        if cfg.target.storage.create_gib:
            objects.append(_claim(cfg.target))
        if cfg.target.network_policy:
            objects.append(network_policy(name, cfg.target, autoscales=cfg.cluster.rollout.is_elastic))
        if cfg.target.monitoring_namespace:
            objects.append(pod_monitor(name, cfg.target))
    return [*objects, _ray_job(name, cfg)]


def _object_name(name: str) -> str:
    """The name of all objects of a job: KubeRay names services after it, and theirs begin with a letter."""
    written = job_name(name)
    if not SERVICE_NAME.fullmatch(written):
        raise ConfigError("name", name, "is no name of a RayJob, which begins with a letter", "put a letter before it")
    return written


def _check_elastic(cfg: RunConfig) -> None:
    """Refuses pods that come and go where a queue admits all of a job together."""
    most, queue = cfg.cluster.rollout.max_workers, cfg.target.queue
    if most is not None and queue is not Queue.NONE:
        problem = f"has pods come and go, but target.queue={queue.name} admits all of a job together"
        raise ConfigError("cluster.rollout.max_workers", most, problem, "leave it out, or set target.queue=NONE")


def pod_files(runs: Sequence[Run]) -> dict[str, str]:
    """The files of a job, as its ConfigMap holds them.

    Raises:
        ConfigError: as `render`.
    """
    return job_files([[(stage, _for_pods(own)) for stage, own in run] for run in runs])


def written(objects: Sequence[Object]) -> str:
    """The objects as one YAML stream, the same for the same objects."""
    return yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, explicit_start=True, width=120)


class _Plain(yaml.SafeDumper):
    """Writes the same part twice, where others would write a name for it: people read and cut these files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A text of several lines as the lines it has."""
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Plain.add_representer(str, _Plain.represent_text)


def _for_pods(cfg: RunConfig) -> RunConfig:
    """The settings as the driver in the head's pod reads them.

    Raises:
        ConfigError: one of them names a file of this machine.
    """
    root = PurePosixPath(cfg.target.storage.path)
    runs_dir = root / cfg.runs_dir
    if not cfg.target.cluster_name and not runs_dir.is_relative_to(root):
        remedy = f"set it to a folder of target.storage.path={root}, or to a relative one"
        raise ConfigError("runs_dir", cfg.runs_dir, "lies outside the volume, and would go with its pod", remedy)
    remedy = f"copy it to the volume of target.storage, and name it there: {root}/..."
    cfg = for_elsewhere(cfg, str(runs_dir), remedy, sees=is_absolute)
    return replace(cfg, cluster=replace(cfg.cluster, role_labels=not cfg.target.cluster_name))


def _metadata(name: str, target: TargetConfig) -> Object:
    return {"name": name, "namespace": target.namespace, "labels": job_labels(name)}


def _config_map(name: str, target: TargetConfig, files: Files) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(name, target),
        "immutable": True,
        "data": dict(files),
    }


def _claim(target: TargetConfig) -> Object:
    """The claim of the volume, which belongs to no job: it has to outlive them all."""
    spec: Object = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": quantity(target.storage.create_gib)}},
    }
    if target.storage.storage_class:
        spec["storageClassName"] = target.storage.storage_class
    metadata = {"name": target.storage.claim, "namespace": target.namespace}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def _ray_job(name: str, cfg: RunConfig) -> Object:
    target, lifecycle = cfg.target, cfg.target.lifecycle
    spec: Object = {
        # Means the same in every shell: no quotation mark, no $, no newline.
        "entrypoint": f"python -m sdft_ray.launch {OPTION}{RUN_FOLDER}/{RUN_FILE}",
        "submissionMode": SUBMISSION_MODES[target.submission],
        "activeDeadlineSeconds": lifecycle.timeout_s,
    }
    if target.cluster_name:
        spec |= {"clusterSelector": {"ray.io/cluster": target.cluster_name}}
    else:
        spec |= {
            "preRunningDeadlineSeconds": lifecycle.start_timeout_s,
            "backoffLimit": lifecycle.max_retries,  # each retry is a new cluster, which resumes from the volume
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": lifecycle.keep_cluster_s,
            "rayClusterSpec": _ray_cluster(name, cfg),
        }
    metadata = _metadata(name, target)
    metadata["labels"] |= _queue_labels(target)
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _queue_labels(target: TargetConfig) -> Mapping[str, str]:
    if target.queue is Queue.NONE:
        return {}
    labels = {QUEUE_LABELS[target.queue]: target.queue_name}
    return labels | ({SCHEDULER_LABEL: SCHEDULERS[target.queue]} if target.queue in SCHEDULERS else {})


def _ray_cluster(name: str, cfg: RunConfig) -> Object:
    target = cfg.target
    spec: Object = {"rayVersion": target.ray_version or version("ray")}
    if target.token:
        secret = {"secretName": target.token_secret} if target.token_secret else {}
        spec["authOptions"] = {"mode": "token", **secret}
    groups = pod_groups(cfg.cluster, cfg.needed_roles())
    if cfg.cluster.rollout.is_elastic:
        spec |= {"enableInTreeAutoscaling": True, "autoscalerOptions": {"version": "v2"}}
    return {
        **spec,
        "headGroupSpec": {
            # No CPU for Ray to place actors on: the head's are the driver's.
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
            "template": head_template(cfg, name),
        },
        "workerGroupSpecs": [_worker_group(name, cfg, group) for group in groups],
    }


def _worker_group(name: str, cfg: RunConfig, group: PodGroup) -> Object:
    return {
        "groupName": group.name,
        "replicas": group.num_pods,
        "minReplicas": group.num_pods,  # all of them, or none
        "maxReplicas": group.most_pods,
        "rayStartParams": {},
        "labels": {ROLE_LABEL: group.name},
        "template": worker_template(cfg, name, group),
    }
