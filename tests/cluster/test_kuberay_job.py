"""A rendered RayJob, executed as KubeRay does: a Ray node a pod, with its labels and limits, and the entrypoint.

In mid-run a pod comes for a rollout worker that Ray has no place for, as KubeRay's autoscaler would add one. Later the
pod is ended, as Kubernetes does, with the command that the manifest has it run before.
Network, images and the operator itself are not here: one machine holds all nodes, and GPUs are none.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.targets.identity import RUN_FILE
from sdft_ray.targets.kuberay.objects import render, written
from tests.cluster.command import ROOT, SETTINGS, users_environment
from tests.test_conf import compose_with

pytestmark = pytest.mark.cluster

NUM_STEPS = 16

# What KubeRay makes of the manifest: of a container's limits the node's resources, of rayStartParams and labels the
# rest; then it submits the entrypoint over the head's dashboard, and asks for the status until the job has ended.
OPERATOR = """
import json, os, signal, socket, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path

import psutil, ray, yaml
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient
from ray.util import placement_group_table
from ray.util.state import list_actors

manifest, run_folder = Path(sys.argv[1]), sys.argv[2]
run = Path(run_folder, "runs", "rendered")
job = next(thing for thing in yaml.safe_load_all(manifest.read_text()) if thing["kind"] == "RayJob")["spec"]
spec = job["rayClusterSpec"]

def free_port():
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]

def node(group):
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    cpus = int(group["rayStartParams"].get("num-cpus", limits["cpu"]))
    return {
        "num_cpus": cpus,
        "labels": group.get("labels", {}),
        "object_store_memory": 100 * 2**20,
        "dashboard_agent_listen_port": free_port(),  # other clusters of this machine have the usual one
    }

head = node(spec["headGroupSpec"]) | {"include_dashboard": True, "dashboard_port": free_port()}
cluster = Cluster(initialize_head=True, head_node_args=head)
for group in spec["workerGroupSpecs"]:
    for _ in range(group["replicas"]):
        cluster.add_node(**node(group))
dashboard = f"http://{cluster.head_node.webui_url}"
try:
    urllib.request.urlopen(f"{dashboard}/api/jobs/", timeout=30)
    refused = 200
except urllib.error.HTTPError as error:
    refused = error.code
client = JobSubmissionClient(dashboard)
for _ in range(60):  # until the head's agent for jobs is there
    try:
        submitted = client.submit_job(
            entrypoint=job["entrypoint"].replace("/etc/sdft_ray", run_folder).replace("python", sys.executable, 1)
        )
        break
    except RuntimeError:
        time.sleep(1)
ray.init(cluster.address, log_to_driver=False)
labels = {node["NodeID"]: node["Labels"].get("sdft-ray/role", "") for node in ray.nodes()}
where, pids, is_over, looked_at = {}, {}, False, 0.0

def look():
    global is_over, looked_at
    if time.monotonic() - looked_at < 1:
        return
    is_over = is_over or client.get_job_status(submitted).is_terminal()
    for actor in list_actors(dashboard, filters=[("state", "=", "ALIVE")], detail=True):
        where.setdefault(actor.class_name, set()).add(labels.get(actor.node_id, ""))
        pids[actor.class_name] = actor.pid
    looked_at = time.monotonic()

ends_at = time.monotonic() + 500

def until(condition):
    while not is_over and not condition() and time.monotonic() < ends_at:
        time.sleep(0.05)
        look()

def lines(name):
    return (run / name).read_text().splitlines() if (run / name).exists() else []

def happened(kind):
    return any(json.loads(line)["kind"] == kind for line in lines("faults.jsonl"))

# No sample is scored in between, so the run is as long as a pod takes.
def hold(name):
    if not is_over and name in pids:
        os.kill(pids[name], signal.SIGSTOP)

def let_go(name):
    if name in pids and psutil.pid_exists(pids[name]):
        os.kill(pids[name], signal.SIGCONT)

until(lambda: lines("metrics.jsonl"))
hold("TransformersTeacher")
(group,) = (each for each in spec["workerGroupSpecs"] if each["maxReplicas"] > each["replicas"])
until(lambda: any(table["state"] == "PENDING" for table in placement_group_table().values()))
pod = cluster.add_node(**node(group))
labels[pod.node_id] = group["labels"]["sdft-ray/role"]
until(lambda: happened("joined"))
let_go("TransformersTeacher")
num_steps = len(lines("metrics.jsonl"))
until(lambda: len(lines("metrics.jsonl")) > num_steps + 2)
hold("TransformersTeacher")
ends = group["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
ends = ends.replace("drain-node", f"drain-node --address {cluster.address} --node-id {pod.node_id}")
drain, _, rest = ends.partition(" && ")  # behind it is the wait for an end that has come by then
drained = None if is_over else subprocess.run(drain, shell=True, capture_output=True, text=True)
until(lambda: happened("left"))
until(lambda: not any(each["Alive"] for each in ray.nodes() if each["NodeID"] == pod.node_id))
let_go("TransformersTeacher")
until(lambda: False)
print(client.get_job_logs(submitted))
print("DONE " + json.dumps({
    "status": client.get_job_status(submitted).value,
    "without_token": refused,
    "where": {name: sorted(labels) for name, labels in where.items()},
    "drained": drained and drained.stdout + drained.stderr,
    "rest": rest,
}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def executed(folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The run folder of a job that was executed, and what was seen of it."""
    tmp_path = tmp_path_factory.mktemp("storage")
    cfg = compose_with(
        *SETTINGS,
        f"model.path={folder}",
        f"runs_dir={tmp_path}/runs",
        "name=rendered",
        "target=kuberay",
        "mode=render",
        "target.image=unused",
        "target.storage.claim=unused",
        f"target.storage.path={tmp_path}",
        f"num_steps={NUM_STEPS}",
        "tracking.num_samples=4",  # the whole batch
        "cluster.rollout.max_workers=2",
        "faults.max_restarts=0",
        "faults.hang_s=3000",  # the teacher is held meanwhile
        "preflight=false",  # a process a node, all on this machine
    )
    objects = render([[("", cfg)]])
    manifest = tmp_path / "job.yaml"
    manifest.write_text(written(objects))
    (tmp_path / RUN_FILE).write_text(objects[0]["data"][RUN_FILE])
    environment = users_environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 32, PYTHONPATH=str(ROOT))
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # as in an image
    command = [sys.executable, "-c", OPERATOR, str(manifest), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=560)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("DONE ")] or [done.stdout + done.stderr]
    result = json.loads(line.removeprefix("DONE ")) if line.startswith("DONE ") else {}
    assert result.get("status") == "SUCCEEDED", done.stdout + done.stderr
    return tmp_path / "runs" / "rendered", result


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_rendered_job_succeeds_on_nodes_of_its_labels(executed: tuple[Path, dict[str, Any]]) -> None:
    run, result = executed
    assert result["without_token"] == 401
    roles = {"RolloutWorker": ["rollout"], "TransformersTeacher": ["teacher"], "LearnerWorker": ["learner"]}
    assert {name: result["where"].get(name) for name in roles} == roles
    assert (run / "summary.json").is_file()


def test_a_worker_joins_with_a_pod_samples_and_leaves_with_it(executed: tuple[Path, dict[str, Any]]) -> None:
    run, result = executed
    assert result["drained"] == "" and result["rest"].startswith("sleep ")
    faults = read(run / "faults.jsonl")
    assert [(fault["kind"], fault["role"], fault["rank"]) for fault in faults] == [
        ("joined", "rollout", 1),
        ("left", "rollout", 1),
    ], "it was not lost, and no restart was left"
    answered = re.search(r"has left: its node is drained.*; it had answered (\d+) calls", faults[1]["text"])
    assert answered and int(answered[1]) > 0
    metrics = read(run / "metrics.jsonl")
    for key in ("faults/joined_workers", "faults/left_workers"):
        assert sum(line.get(key, 0) for line in metrics) == 1
    assert max(line.get("learner/mismatch_max_nats", 0) for line in metrics) < 1e-4, "it sampled with other weights"


def test_each_example_is_trained_once_while_workers_come_and_go(executed: tuple[Path, dict[str, Any]]) -> None:
    run, _ = executed
    trained = [(line["example_id"], line["epoch"]) for line in read(run / "samples.jsonl")]
    assert len(trained) == len(set(trained)) == NUM_STEPS * 4
