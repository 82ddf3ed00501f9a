"""A rendered RayJob, executed as KubeRay does: a Ray node a pod, with its labels and limits, and the entrypoint.

Network, images and the operator itself are not here: one machine holds all nodes, and GPUs are none.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sdft_ray.targets.identity import RUN_FILE
from sdft_ray.targets.kuberay.objects import render, written
from tests.cluster.command import ROOT, SETTINGS, users_environment
from tests.test_conf import compose_with

pytestmark = pytest.mark.cluster

# What KubeRay makes of the manifest: of a container's limits the node's resources, of rayStartParams and labels the
# rest; then it submits the entrypoint over the head's dashboard, and asks for the status until the job has ended.
OPERATOR = """
import json, socket, sys, time, urllib.error, urllib.request
from pathlib import Path

import ray, yaml
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient
from ray.util.state import list_actors

manifest, run_folder = Path(sys.argv[1]), sys.argv[2]
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
where = {}
while not client.get_job_status(submitted).is_terminal():
    for actor in list_actors(filters=[("state", "=", "ALIVE")], detail=True):
        where.setdefault(actor.class_name, set()).add(labels.get(actor.node_id, ""))
    time.sleep(1)
print(client.get_job_logs(submitted))
print("DONE " + json.dumps({
    "status": client.get_job_status(submitted).value,
    "without_token": refused,
    "where": {name: sorted(labels) for name, labels in where.items()},
}))
ray.shutdown()
cluster.shutdown()
"""


def test_a_rendered_job_succeeds_on_nodes_of_its_labels(folder: str, tmp_path: Path) -> None:
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
    )
    objects = render([[("", cfg)]])
    manifest = tmp_path / "job.yaml"
    manifest.write_text(written(objects))
    (tmp_path / RUN_FILE).write_text(objects[0]["data"][RUN_FILE])
    environment = users_environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 32, PYTHONPATH=str(ROOT))
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", OPERATOR, str(manifest), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("DONE ")] or [done.stdout + done.stderr]
    result = json.loads(line.removeprefix("DONE "))
    assert result["status"] == "SUCCEEDED", done.stdout
    assert result["without_token"] == 401
    roles = {"RolloutWorker": ["rollout"], "TransformersTeacher": ["teacher"], "LearnerWorker": ["learner"]}
    assert {name: result["where"].get(name) for name in roles} == roles
    assert (tmp_path / "runs" / "rendered" / "summary.json").is_file()
