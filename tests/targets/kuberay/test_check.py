"""A job that is right breaks no rule; each of these mutants breaks one, which is named."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from sdft_ray.config import RunConfig
from sdft_ray.targets.kuberay.check import check_objects
from sdft_ray.targets.kuberay.objects import render
from tests.targets.kuberay.jobs import job_config, schema

Job = dict[str, Any]
pytest.importorskip("cel")
pytest.importorskip("kubernetes_validate")


def put(path: str, value: Any) -> Callable[[Job], None]:
    """Sets one field of a job."""

    def mutate(job: Job) -> None:
        *folders, last = path.split("/")
        at: Any = job
        for name in folders:
            at = at[int(name)] if isinstance(at, list) else at.setdefault(name, {})
        at[last] = value

    return mutate


def drop(path: str) -> Callable[[Job], None]:
    """Removes one field of a job."""

    def mutate(job: Job) -> None:
        *folders, last = path.split("/")
        at: Any = job
        for name in folders:
            at = at[int(name)] if isinstance(at, list) else at[name]
        del at[int(last) if isinstance(at, list) else last]

    return mutate


def both(*mutations: Callable[[Job], None]) -> Callable[[Job], None]:
    def mutate(job: Job) -> None:
        for mutation in mutations:
            mutation(job)

    return mutate


CLUSTER = "spec/rayClusterSpec"
HEAD = f"{CLUSTER}/headGroupSpec"
WORKER = f"{CLUSTER}/workerGroupSpecs/0"
RULES = {"onSuccess": {"policy": "DeleteCluster"}, "onFailure": {"policy": "DeleteCluster"}}
MUTANTS: dict[str, tuple[Callable[[Job], None], str]] = {
    # The schema.
    "unknown field of the job": (put("spec/entrypont", "x"), "entrypont"),
    "unknown field of a pod": (put(f"{WORKER}/template/spec/nodeSelectr", {}), "nodeSelectr"),
    "unknown field of a container": (put(f"{HEAD}/template/spec/containers/0/imge", "x"), "imge"),
    "a number as text": (put("spec/backoffLimit", "3"), "is not of type 'integer'"),
    "a number where a text belongs": (put(f"{HEAD}/rayStartParams/num-cpus", 0), "is not of type 'string'"),
    "no template": (drop(f"{WORKER}/template/spec/containers/0/name"), "'name' is a required property"),
    "no group name": (drop(f"{WORKER}/groupName"), "'groupName' is a required property"),
    "a quantity that is none": (
        put(f"{WORKER}/template/spec/containers/0/resources/limits/memory", "16 gigs"),
        "does not match",
    ),
    "an unknown mode of authentication": (put(f"{CLUSTER}/authOptions/mode", "tokn"), "is not one of"),
    "a deadline of zero": (put("spec/preRunningDeadlineSeconds", 0), "less than the minimum"),
    "more seconds than 32 bits hold": (put("spec/activeDeadlineSeconds", 2**31), "greater than the maximum"),
    # Rules in CEL.
    "two ways of deletion": (
        put("spec/deletionStrategy", {**RULES, "deletionRules": []}),
        "cannot be used together within the same deletionStrategy",
    ),
    "half a way of deletion": (
        put("spec/deletionStrategy", {"onSuccess": {"policy": "DeleteCluster"}}),
        "requires either BOTH onSuccess and onFailure",
    ),
    "managed by somebody else": (put("spec/managedBy", "me"), "the managedBy field value must be either"),
    # The operator's rules.
    "a long name": (put("metadata/name", "a" * 48), "47 are allowed"),
    "a name that begins with a digit": (put("metadata/name", "7b-run"), "begins with a letter"),
    "a mode with a typo": (put("spec/submissionMode", "HttpMode"), "is none of"),
    "the mode that kills jobs": (put("spec/submissionMode", "K8sJobMode"), "takes the end of a log stream"),
    "no mode at all": (drop("spec/submissionMode"), "takes the end of a log stream"),
    "a sidecar with a selector": (
        both(put("spec/submissionMode", "SidecarMode"), put("spec/clusterSelector", {"a": "b"})),
        "does not go with SidecarMode",
    ),
    "a sidecar of a head that restarts": (
        both(put("spec/submissionMode", "SidecarMode"), put(f"{HEAD}/template/spec/restartPolicy", "Always")),
        "SidecarMode needs Never",
    ),
    "a time to live without an end": (drop("spec/shutdownAfterJobFinishes"), "without shutdownAfterJobFinishes"),
    "suspended without an end": (
        both(put("spec/suspend", True), drop("spec/shutdownAfterJobFinishes")),
        "needs shutdownAfterJobFinishes",
    ),
    "rules of deletion beside the end": (
        put(
            "spec/deletionStrategy",
            {"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}]},
        ),
        "does not go with shutdownAfterJobFinishes",
    ),
    "retries of a cluster that is there": (
        both(put("spec/clusterSelector", {"a": "b"}), drop(CLUSTER)),
        "makes new clusters",
    ),
    "interactive retries": (put("spec/submissionMode", "InteractiveMode"), "does not go with InteractiveMode"),
    "negative retries": (put("spec/backoffLimit", -1), "is negative"),
    "both clusters": (put("spec/clusterSelector", {"a": "b"}), "either rayClusterSpec or clusterSelector"),
    "no cluster": (drop(CLUSTER), "either rayClusterSpec or clusterSelector"),
    "an upgrade": (put(f"{CLUSTER}/upgradeStrategy", {"type": "None"}), "has no meaning in a RayJob"),
    "an entrypoint with a variable": (put("spec/entrypoint", "python $FILE"), "which shells read"),
    "an empty entrypoint": (put("spec/entrypoint", " "), "is empty"),
    "tokens of an old Ray": (put(f"{CLUSTER}/rayVersion", "2.51.0"), "has no tokens"),
    "the cluster's own tokens": (put(f"{CLUSTER}/authOptions/enableK8sTokenAuth", True), "is refused for a RayJob"),
    "labels among the parameters": (put(f"{WORKER}/rayStartParams", {"labels": "a=b"}), "own field labels"),
    "resources twice": (
        both(put(f"{WORKER}/resources", {"CPU": "4"}), put(f"{WORKER}/rayStartParams", {"num-cpus": "4"})),
        "own field resources",
    ),
    "more at least than at most": (put(f"{WORKER}/minReplicas", 5), "is above maxReplicas"),
    "more than at most": (put(f"{WORKER}/replicas", 5), "lies outside"),
    "an autoscaler of pods that restart": (
        both(put(f"{CLUSTER}/enableInTreeAutoscaling", True), put(f"{WORKER}/template/spec/restartPolicy", "Always")),
        "the autoscaler needs Never",
    ),
    "a queue of a cluster that is there": (
        both(
            put("metadata/labels", {"kueue.x-k8s.io/queue-name": "q"}),
            put("spec/clusterSelector", {"a": "b"}),
            drop(CLUSTER),
        ),
        "Kueue admits new clusters only",
    ),
    # What the driver will ask for.
    "a group that is not there": (drop(f"{CLUSTER}/workerGroupSpecs/2"), "the driver asks for"),
    "a label that nobody asks for": (put(f"{WORKER}/labels", {"sdft-ray/role": "rolout"}), "is asked for by no worker"),
}


@cache
def right_job() -> tuple[RunConfig, list[Job]]:
    cfg = job_config()
    return cfg, render([[("", cfg)]])


def findings(mutate: Callable[[Job], None]) -> list[str]:
    cfg, objects = copy.deepcopy(right_job())
    (job,) = [thing for thing in objects if thing["kind"] == "RayJob"]
    mutate(job)
    return [str(finding) for finding in check_objects(objects, cfg, schema()).findings]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_refused_by_the_rule_it_breaks(name: str) -> None:
    mutate, message = MUTANTS[name]
    found = findings(mutate)
    assert any(message in finding for finding in found), found


def test_a_gpu_too_few_is_found_before_the_driver_waits_for_it() -> None:
    def mutate(job: Job) -> None:
        pod = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
        pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "1"

    missing = "1 GPUs for sdft-ray/role=rollout in all replicas, the driver asks for 2"
    assert findings(mutate) == [f"RayJob/spec/rayClusterSpec/workerGroupSpecs: {missing}"]


@pytest.mark.parametrize("cluster", ["1xH100", "4x8xH100", "local"])
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("target.submission=SIDECAR", "target.queue=KUEUE", "target.queue_name=gpus"),
        ("target.queue=KAI", "target.queue_name=gpus", "target.storage.create_gib=100"),
        ("target.token=false", "target.network_policy=false", "target.shared_memory_gib=1.5"),
        ("target.service_account=trainer", "target.image_pull_secret=registry", "+target.node_selector.gpu=a100"),
        ("target.tolerations=[{key: gpu, operator: Exists}]",),
    ],
    ids=" ".join,
)
def test_what_is_rendered_breaks_no_rule(cluster: str, overrides: tuple[str, ...]) -> None:
    cfg = job_config(f"+cluster={cluster}", *overrides)
    assert check_objects(render([[("", cfg)]]), cfg, schema()).findings == ()


def test_an_autoscaling_job_breaks_no_rule_and_its_mutants_do() -> None:
    cfg = job_config("cluster.rollout.max_workers=5")

    def found(mutate: Callable[[Job], None]) -> list[str]:
        objects = render([[("", cfg)]])
        mutate(next(thing for thing in objects if thing["kind"] == "RayJob"))
        return [str(finding) for finding in check_objects(objects, cfg, schema()).findings]

    assert found(lambda job: None) == []
    missing = "for sdft-ray/role=rollout in all maxReplicas, the driver asks for"
    at = "RayJob/spec/rayClusterSpec/workerGroupSpecs"
    assert found(put(f"{WORKER}/maxReplicas", 4)) == [f"{at}: 4 GPUs {missing} 5", f"{at}: 16 CPUs {missing} 20"]
    (finding,) = found(drop(f"{CLUSTER}/enableInTreeAutoscaling"))
    assert "without it no pod comes for a worker that may join" in finding


def test_the_other_kinds_are_held_to_their_schemas() -> None:
    cfg = job_config("target.storage.create_gib=100")
    objects = render([[("", cfg)]])
    broken = {"ConfigMap": {"dat": {}}, "NetworkPolicy": {"spec": {"egres": []}}, "PersistentVolumeClaim": {"spec": 3}}
    for kind, change in broken.items():
        mutated = [{**thing, **change} if thing["kind"] == kind else thing for thing in objects]
        assert [finding.where.split("/")[0] for finding in check_objects(mutated, cfg, schema()).findings] == [kind]


def test_without_definitions_it_is_said_that_no_schema_was_looked_at() -> None:
    cfg = job_config()
    checked = check_objects(render([[("", cfg)]]), cfg, None)
    assert checked.findings == ()
    assert checked.not_checked == ("schemas: set target.crds to KubeRay's ray.io_rayjobs.yaml",)
