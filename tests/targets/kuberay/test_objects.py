"""What a job of KubeRay is made of."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sdft_ray.config import ClusterConfig
from sdft_ray.config.cluster import ANY_ROLE, ROLE_LABEL
from sdft_ray.errors import ConfigError
from sdft_ray.targets.identity import RUN_FILE
from sdft_ray.targets.kuberay.objects import render, written
from tests.targets.kuberay.jobs import job_config, rendered


def settings(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    ((stage,),) = yaml.safe_load(objects["ConfigMap"]["data"][RUN_FILE])
    found: dict[str, Any] = stage["settings"]
    return found


def cluster_of(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = objects["RayJob"]["spec"]["rayClusterSpec"]
    return found


def pods(objects: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    cluster = cluster_of(objects)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_same_settings_make_the_same_text() -> None:
    runs = [[("", job_config())]]
    assert written(render(runs)) == written(render(runs))


def test_every_role_has_pods_with_its_label_and_its_gpus() -> None:
    groups = cluster_of(rendered())["workerGroupSpecs"]
    seen = {
        group["labels"][ROLE_LABEL]: (
            group["replicas"],
            group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"],
        )
        for group in groups
    }
    assert seen == {"rollout": (1, "2"), "teacher": (1, "2"), "learner": (1, "4")}


def test_the_driver_in_the_head_looks_for_the_labels_of_the_pods() -> None:
    for cluster in ("8xA100", "1xH100", "4x8xH100"):
        objects = rendered(f"+cluster={cluster}")
        labels = {group["labels"][ROLE_LABEL] for group in cluster_of(objects)["workerGroupSpecs"]}
        assert settings(objects)["cluster"]["role_labels"] is True
        config: ClusterConfig = job_config(f"+cluster={cluster}").cluster
        assert labels == {config.label_of(role) for role in config.placements()}
    assert ANY_ROLE in {
        group["labels"][ROLE_LABEL] for group in cluster_of(rendered("+cluster=1xH100"))["workerGroupSpecs"]
    }


def test_roles_that_no_method_needs_have_no_pods() -> None:
    groups = cluster_of(
        rendered(
            "method=sft",
            "data=jsonl",
            "data.source=/storage/rows.jsonl",
            "evaluation.prior=''",
            "evaluation.general=''",
        )
    )
    assert [group["groupName"] for group in groups["workerGroupSpecs"]] == ["learner"]


def test_no_actor_has_room_on_the_head() -> None:
    head = cluster_of(rendered())["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_a_job_that_is_begun_anew_goes_on_from_the_volume() -> None:
    objects = rendered()
    assert objects["RayJob"]["spec"]["backoffLimit"] == 3
    assert settings(objects)["resume"] == "auto"
    assert settings(objects)["runs_dir"] == "/storage/runs"
    assert all(volume in str(pods(objects)[0]["volumes"]) for volume in ("training", "billing", "Memory"))


def test_a_secret_is_named_and_never_written() -> None:
    objects = rendered("+target.secrets.HF_TOKEN=hub/token")
    for pod in pods(objects):
        (found,) = [entry for entry in pod["containers"][0]["env"] if entry["name"] == "HF_TOKEN"]
        assert found["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}


def test_a_value_where_the_place_of_a_secret_belongs_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="target.secrets.HF_TOKEN") as caught:
        rendered("+target.secrets.HF_TOKEN=hf_verysecret")
    assert "verysecret" not in str(caught.value)


def test_no_pod_has_privileges() -> None:
    for pod in pods(rendered()):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["restartPolicy"] == "Never"


def test_the_entrypoint_needs_no_quoting_whatever_the_settings_hold() -> None:
    objects = rendered("note='$HOME \"and\" `id`; rm'")
    assert objects["RayJob"]["spec"]["entrypoint"] == "python -m sdft_ray.launch --run-file=/etc/sdft_ray/run.yaml"
    assert settings(objects)["note"] == '$HOME "and" `id`; rm'


def test_names_can_be_looked_up_behind_the_network_policy() -> None:
    policy = rendered()["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    ports = [(port["protocol"], port["port"]) for rule in policy["egress"] for port in rule.get("ports", [])]
    assert {("UDP", 53), ("TCP", 53)} <= set(ports)


def test_the_operator_reaches_the_dashboard_and_the_monitoring_the_metrics() -> None:
    objects = rendered("target.operator_namespace=kuberay", "target.monitoring_namespace=monitoring")
    assert {
        (
            rule["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
            rule["ports"][0]["port"],
        )
        for rule in objects["NetworkPolicy"]["spec"]["ingress"]
        if "ports" in rule
    } == {("kuberay", 8265), ("monitoring", 8080)}
    ports = {port["name"]: port["containerPort"] for pod in pods(objects) for port in pod["containers"][0]["ports"]}
    assert ports[objects["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"]] == 8080


@pytest.mark.parametrize(
    ("queue", "labels"),
    [
        ("KUEUE", {"kueue.x-k8s.io/queue-name": "gpus"}),
        ("VOLCANO", {"volcano.sh/queue-name": "gpus", "ray.io/scheduler-name": "volcano"}),
        ("KAI", {"kai.scheduler/queue": "gpus", "ray.io/scheduler-name": "kai-scheduler"}),
    ],
)
def test_a_queue_admits_the_job_by_its_label(queue: str, labels: dict[str, str]) -> None:
    objects = rendered(f"target.queue={queue}", "target.queue_name=gpus")
    assert labels.items() <= objects["RayJob"]["metadata"]["labels"].items()


def test_a_cluster_that_is_there_is_neither_made_nor_removed() -> None:
    objects = rendered(
        "target.cluster_name=shared", "target.image=''", "target.storage.claim=''", "runs_dir=/data/runs"
    )
    spec = objects["RayJob"]["spec"]
    assert spec["clusterSelector"] == {"ray.io/cluster": "shared"}
    assert not {"backoffLimit", "rayClusterSpec", "shutdownAfterJobFinishes"} & set(spec)
    assert set(objects) == {"ConfigMap", "RayJob"}


def test_a_claim_is_rendered_where_its_size_is_given() -> None:
    claim = rendered("target.storage.create_gib=500", "target.storage.storage_class=nfs")["PersistentVolumeClaim"]
    assert claim["metadata"]["name"] == "training"
    assert claim["spec"]["resources"]["requests"]["storage"] == "500Gi"
    assert claim["spec"]["storageClassName"] == "nfs"


def test_a_file_of_this_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "demonstration": "b"}\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"data.source=rows.jsonl: is a file of this machine"):
        rendered("data=jsonl", "data.source=rows.jsonl")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=''", "set name"),
        (f"name={'a' * 48}", "at most 47"),
        ("name='a b'", "is no name that a job can have"),
        ("runs_dir=/elsewhere", "lies outside the volume"),
        ("target.image=''", "target.image"),
        ("target.storage.claim=''", "target.storage.claim"),
        ("target.storage.path=/", "target.storage.path"),
        ("target.namespace=My_Space", "target.namespace"),
        ("target.queue=KUEUE", "target.queue_name"),
        ("target.job=dance", "choose train, evaluate or check_teacher"),
        ("target.user_id=0", "is root"),
        ("+target.environment.A-B=1", "is no name of an environment variable"),
        ("target.lifecycle.max_retries=-1", "target.lifecycle.max_retries"),
        ("target.lifecycle.start_timeout_s=99999999", "is longer than all of"),
    ],
)
def test_what_no_pod_can_use_is_refused_with_its_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rendered(override)


def test_only_the_pods_of_rollout_workers_come_and_go_and_are_drained_before_they_end() -> None:
    cluster = cluster_of(rendered("cluster.rollout.max_workers=5"))
    assert cluster["enableInTreeAutoscaling"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    replicas = {name: (group["minReplicas"], group["maxReplicas"]) for name, group in groups.items()}
    assert replicas == {"rollout": (2, 5), "teacher": (1, 1), "learner": (1, 1)}
    containers = {name: group["template"]["spec"]["containers"][0] for name, group in groups.items()}
    before_end = {name: each["lifecycle"]["preStop"]["exec"]["command"][-1] for name, each in containers.items()}
    assert before_end["rollout"].startswith("ray drain-node ") and before_end["rollout"].endswith("; ray stop")
    assert before_end["teacher"] == before_end["learner"] == "ray stop"
    assert "enableInTreeAutoscaling" not in cluster_of(rendered())


def test_pods_that_come_and_go_are_refused_in_a_queue() -> None:
    with pytest.raises(ConfigError, match=r"max_workers=5: has pods come and go, but target\.queue=KUEUE"):
        rendered("cluster.rollout.max_workers=5", "target.queue=KUEUE", "target.queue_name=gpus")


def test_a_name_that_begins_with_a_digit_is_refused_before_the_operator_does() -> None:
    with pytest.raises(ConfigError, match=r"^name=7b-run.*begins with a letter"):
        rendered("name=7b-run")


def test_a_size_that_is_no_whole_mebibyte_never_becomes_none() -> None:
    claim = rendered("target.storage.create_gib=0.0001")["PersistentVolumeClaim"]
    assert claim["spec"]["resources"]["requests"] == {"storage": "1Mi"}
