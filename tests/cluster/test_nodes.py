"""Places on several nodes: Ray's own placement on nodes that pretend to have eight GPUs each."""

import json
import os
import subprocess
import sys

import pytest

from tests.cluster.command import ROOT

pytestmark = pytest.mark.cluster

# A process of its own, since one is connected to one Ray at a time.
PROGRAM = """
import json
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from sdft_ray.cluster.environment import DRIVER
from sdft_ray.cluster.placement import reserve
from tests.test_conf import compose_with

node = {"num_cpus": 64, "num_gpus": 8, "object_store_memory": 80 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=node)
cluster.add_node(**node)
ray.init(cluster.address, log_to_driver=False)
try:
    reservations = reserve(compose_with("+cluster=2x8xH100").cluster, ["rollout", "teacher", "learner"])
    tables = {role: placement_group_table(held.groups[0]) for role, held in reservations.items()}
    print("NODES " + json.dumps({role: sorted(table["bundles_to_node_id"].values()) for role, table in tables.items()}))
finally:
    ray.shutdown()
    cluster.shutdown()
"""


def test_the_learner_of_2x8xh100_has_one_node_to_itself() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("NODES ")]
    nodes = {role: set(ids) for role, ids in json.loads(line.removeprefix("NODES ")).items()}
    assert len(nodes["learner"]) == 1
    assert nodes["rollout"] == nodes["teacher"], "the other node has room for both"
    assert not nodes["learner"] & nodes["rollout"]
