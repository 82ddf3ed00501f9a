"""What the schema of a RayJob lets pass and the operator, or its users' experience, does not.

The API server takes such a job, and it fails later with an event that nobody sees, or never starts.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sdft_ray.config.kubernetes import SERVICE_NAME
from sdft_ray.targets.jobs import LONGEST_NAME
from sdft_ray.targets.kuberay.finding import Finding

Spec = Mapping[str, Any]
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
RESOURCE_PARAMETERS = ("num-cpus", "num-gpus", "memory")
FIRST_VERSION_WITH_TOKENS = (2, 52)
MOST_WORKER_GROUPS_OF_KUEUE = 17
KUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SHELL_SIGNS = "$`\"'\\\n;&|<>*?(){}!#~"


def operator_findings(job: Mapping[str, Any]) -> Iterator[Finding]:
    """Every rule that a RayJob breaks."""
    yield from _name(job)
    for rule in (_submission, _lifecycle, _retries, _entrypoint, _cluster, _authentication, _autoscaler):
        yield from rule(job["spec"])
    cluster = job["spec"].get("rayClusterSpec", {})
    yield from _group("headGroupSpec", cluster.get("headGroupSpec", {}))
    for index, group in enumerate(cluster.get("workerGroupSpecs", [])):
        yield from _group(f"workerGroupSpecs/{index}", group)
        yield from _replicas(f"workerGroupSpecs/{index}", group)
    yield from _queue(job)


def _at(path: str) -> Callable[[str], Finding]:
    return lambda problem: Finding(f"RayJob/{path}", problem)


def _name(job: Mapping[str, Any]) -> Iterator[Finding]:
    name = job["metadata"]["name"]
    if len(name) > LONGEST_NAME:
        yield _at("metadata/name")(f"{name!r} has {len(name)} characters, {LONGEST_NAME} are allowed")
    if not SERVICE_NAME.fullmatch(name):
        yield _at("metadata/name")(f"{name!r} is no name of a service, which begins with a letter and has small ones")


def _submission(spec: Spec) -> Iterator[Finding]:
    at, mode = _at("spec/submissionMode"), spec.get("submissionMode", SUBMISSION_MODES[0])
    if mode not in SUBMISSION_MODES:
        yield at(f"{mode!r} is none of {', '.join(SUBMISSION_MODES)}")
    if mode == "K8sJobMode":
        yield at("K8sJobMode takes the end of a log stream for the end of the job; use HTTPMode or SidecarMode")
    if mode == "SidecarMode":
        for key in ("clusterSelector", "submitterPodTemplate"):
            if key in spec:
                yield _at(f"spec/{key}")("does not go with SidecarMode")
        head = spec.get("rayClusterSpec", {}).get("headGroupSpec", {}).get("template", {}).get("spec", {})
        if head.get("restartPolicy", "Always") != "Never":
            yield _at("spec/rayClusterSpec/headGroupSpec/template/spec/restartPolicy")("SidecarMode needs Never")


def _lifecycle(spec: Spec) -> Iterator[Finding]:
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("ttlSecondsAfterFinished", 0) and not shuts_down:
        yield _at("spec/ttlSecondsAfterFinished")("has no effect without shutdownAfterJobFinishes, and is refused")
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield _at("spec/ttlSecondsAfterFinished")("is negative")
    if spec.get("suspend") and not shuts_down:
        yield _at("spec/suspend")("needs shutdownAfterJobFinishes")
    if "deletionRules" in spec.get("deletionStrategy", {}) and shuts_down:
        yield _at("spec/deletionStrategy/deletionRules")("does not go with shutdownAfterJobFinishes")
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key, 1) <= 0:
            yield _at(f"spec/{key}")("must be positive")
    if "rayClusterSpec" in spec and not shuts_down and "deletionStrategy" not in spec:
        yield _at("spec/shutdownAfterJobFinishes")("without it the cluster stays after the job, with all its GPUs")


def _retries(spec: Spec) -> Iterator[Finding]:
    retries = spec.get("backoffLimit", 0)
    if retries < 0:
        yield _at("spec/backoffLimit")("is negative")
    if retries and "clusterSelector" in spec:
        yield _at("spec/backoffLimit")("makes new clusters, but clusterSelector names one")
    if retries and spec.get("submissionMode") == "InteractiveMode":
        yield _at("spec/backoffLimit")("does not go with InteractiveMode")


def _entrypoint(spec: Spec) -> Iterator[Finding]:
    entrypoint, at = spec.get("entrypoint", ""), _at("spec/entrypoint")
    if not entrypoint.strip() and spec.get("submissionMode") != "InteractiveMode":
        yield at("is empty")
    if found := [sign for sign in SHELL_SIGNS if sign in entrypoint]:
        yield at(f"has {' '.join(map(repr, found))}, which shells read in ways of their own")


def _cluster(spec: Spec) -> Iterator[Finding]:
    if ("rayClusterSpec" in spec) == ("clusterSelector" in spec):
        yield _at("spec")("needs either rayClusterSpec or clusterSelector")
    if "upgradeStrategy" in spec.get("rayClusterSpec", {}):
        yield _at("spec/rayClusterSpec/upgradeStrategy")("has no meaning in a RayJob")


def _authentication(spec: Spec) -> Iterator[Finding]:
    cluster = spec.get("rayClusterSpec", {})
    options, at = cluster.get("authOptions", {}), _at("spec/rayClusterSpec/authOptions")
    if options.get("enableK8sTokenAuth"):
        yield at("enableK8sTokenAuth is refused for a RayJob")
    if options.get("mode") != "token":
        return
    version = cluster.get("rayVersion", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if len(numbers) < 2 or numbers < FIRST_VERSION_WITH_TOKENS:
        first = ".".join(map(str, FIRST_VERSION_WITH_TOKENS))
        yield _at("spec/rayClusterSpec/rayVersion")(f"{version!r} has no tokens, which Ray has since {first}")


def _autoscaler(spec: Spec) -> Iterator[Finding]:
    cluster = spec.get("rayClusterSpec", {})
    if not cluster.get("enableInTreeAutoscaling") or cluster.get("autoscalerOptions", {}).get("version", "v2") != "v2":
        return
    groups = {"headGroupSpec": cluster.get("headGroupSpec", {})}
    groups |= {f"workerGroupSpecs/{index}": group for index, group in enumerate(cluster.get("workerGroupSpecs", []))}
    for path, group in groups.items():
        if group.get("template", {}).get("spec", {}).get("restartPolicy", "Always") != "Never":
            at = _at(f"spec/rayClusterSpec/{path}/template/spec/restartPolicy")
            yield at("the autoscaler needs Never")


def _group(path: str, group: Mapping[str, Any]) -> Iterator[Finding]:
    at = _at(f"spec/rayClusterSpec/{path}/rayStartParams")
    parameters = group.get("rayStartParams", {})
    if "labels" in parameters:
        yield at("labels belong to the group's own field labels")
    if group.get("resources") and (both := [name for name in RESOURCE_PARAMETERS if name in parameters]):
        yield at(f"{both[0]} is given beside the group's own field resources")


def _replicas(path: str, group: Mapping[str, Any]) -> Iterator[Finding]:
    at = _at(f"spec/rayClusterSpec/{path}")
    least, most = group.get("minReplicas", 0), group.get("maxReplicas", 0)
    if least > most:
        yield at(f"minReplicas={least} is above maxReplicas={most}")
    if not least <= group.get("replicas", least) <= most:
        yield at(f"replicas={group['replicas']} lies outside [{least}, {most}]")


def _queue(job: Mapping[str, Any]) -> Iterator[Finding]:
    spec, labels = job["spec"], job["metadata"].get("labels", {})
    if KUEUE_LABEL not in labels:
        return
    at = _at("spec")
    if "clusterSelector" in spec:
        yield at("Kueue admits new clusters only, but clusterSelector names one")
    if not spec.get("shutdownAfterJobFinishes"):
        yield at("Kueue needs shutdownAfterJobFinishes")
    groups = len(spec.get("rayClusterSpec", {}).get("workerGroupSpecs", []))
    if groups > MOST_WORKER_GROUPS_OF_KUEUE:
        yield at(f"{groups} worker groups, of which Kueue takes {MOST_WORKER_GROUPS_OF_KUEUE}")
