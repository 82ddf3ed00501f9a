"""Whether a cluster would take the objects of a job and run them as the driver expects; asks no cluster."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdft_ray.config import RolePlacement, RunConfig, TargetConfig
from sdft_ray.config.cluster import ROLE_LABEL
from sdft_ray.errors import ConfigError
from sdft_ray.targets.kuberay.finding import Finding
from sdft_ray.targets.kuberay.objects import Object
from sdft_ray.targets.kuberay.operator_rules import operator_findings
from sdft_ray.targets.kuberay.schema import RayJobSchema, native_findings

NATIVE = ("ConfigMap", "PersistentVolumeClaim", "NetworkPolicy")
LIBRARIES = ("cel", "kubernetes_validate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a check has found, and what it could not look at."""

    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]  # a sentence each
    accepted: tuple[str, ...] = ()  # by the API server: an object each


def read_schema(target: TargetConfig) -> RayJobSchema | None:
    """The schema at target.crds; None where none is named.

    Raises:
        ConfigError: it cannot be read, or a library for it is missing.
    """
    if not target.crds:
        return None
    if missing := [name for name in LIBRARIES if importlib.util.find_spec(name) is None]:
        problem = f"is held to its rules by {missing[0]}, which is not installed"
        raise ConfigError("target.crds", target.crds, problem, "install sdft_ray[kubernetes]")
    return RayJobSchema(Path(target.crds).expanduser())


def check_objects(objects: Sequence[Object], cfg: RunConfig, schema: RayJobSchema | None) -> Checked:
    """Holds objects against schemas, the operator's rules, and the places that the driver will ask for.

    Args:
        objects: those of one job.
        cfg: the settings they were rendered from.
        schema: of RayJob; None leaves all schemas out.
    """
    findings: list[Finding] = []
    not_checked = [] if schema else ["schemas: set target.crds to KubeRay's ray.io_rayjobs.yaml"]
    for thing in objects:
        if thing["kind"] == "RayJob":
            # The rules behind the schema read fields of the types that it demands.
            broken = list(schema.findings(thing)) if schema else []
            findings += broken or [*operator_findings(thing), *_placement(thing, cfg)]
        elif thing["kind"] not in NATIVE:
            not_checked.append(f"{thing['kind']}: its definition is not KubeRay's")
        elif schema:
            findings += native_findings(thing)
    return Checked(findings=tuple(findings), not_checked=tuple(not_checked))


def _placement(job: Mapping[str, Any], cfg: RunConfig) -> Iterator[Finding]:
    """Where the pods lack what the driver will reserve, at the start and with the most workers that may join."""
    if "rayClusterSpec" not in job["spec"]:
        return
    yield from _room(job, cfg, "replicas", lambda placement: placement.num_workers)
    if cfg.cluster.rollout.is_elastic:
        yield from _room(job, cfg, "maxReplicas", lambda placement: placement.most_workers)
        if not job["spec"]["rayClusterSpec"].get("enableInTreeAutoscaling"):
            where = "RayJob/spec/rayClusterSpec/enableInTreeAutoscaling"
            yield Finding(where, "without it no pod comes for a worker that may join")


def _room(
    job: Mapping[str, Any], cfg: RunConfig, replicas: str, num_workers: Callable[[RolePlacement], int]
) -> Iterator[Finding]:
    wanted: dict[str, list[float]] = {}
    for role in cfg.needed_roles():
        placement = cfg.cluster.placements()[role]
        of_label = wanted.setdefault(cfg.cluster.label_of(role), [0, 0])
        of_label[0] += num_workers(placement) * placement.gpus_per_worker
        of_label[1] += num_workers(placement) * placement.cpus_per_worker
    there: dict[str, list[float]] = {label: [0, 0] for label in wanted}
    for index, group in enumerate(job["spec"]["rayClusterSpec"].get("workerGroupSpecs", [])):
        label = group.get("labels", {}).get(ROLE_LABEL, "")
        if label not in there:
            where = f"RayJob/spec/rayClusterSpec/workerGroupSpecs/{index}/labels"
            yield Finding(where, f"{ROLE_LABEL}={label!r} is asked for by no worker")
            continue
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        there[label][0] += group[replicas] * int(limits.get(cfg.target.gpu_resource, 0))
        there[label][1] += group[replicas] * int(limits["cpu"])
    for label, (gpus, cpus) in wanted.items():
        for resource, needed, has in (("GPUs", gpus, there[label][0]), ("CPUs", cpus, there[label][1])):
            if has < needed:
                where = "RayJob/spec/rayClusterSpec/workerGroupSpecs"
                found = f"{has:g} {resource} for {ROLE_LABEL}={label} in all {replicas}"
                yield Finding(where, f"{found}, the driver asks for {needed:g}")
