"""A node that is gone, with its worker and the payloads that lay on it: two Ray nodes on this machine."""

import json
import os
import subprocess
import sys

import pytest

from tests.cluster.command import ROOT

pytestmark = pytest.mark.cluster

# A process of its own, since one is connected to one Ray at a time.
PROGRAM = """
import asyncio, json, sys
from types import SimpleNamespace

import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sdft_ray.cluster.environment import DRIVER
from sdft_ray.cluster.recovery import replace_lost, score_lost_again
from sdft_ray.config import TeacherConfig, TeacherWeights
from sdft_ray.records import Rollout, make_sample
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.workers.group import WorkerGroup
from sdft_ray.workers.recovery import RestartBudget
from sdft_ray.workers.worker import Worker
from tests.fakes import make_example
from tests.weights.plans import make_plan

LOGS = sys.argv[1]
LARGE = 2**20  # bytes: what is small travels with the answer, and no node keeps it


class Teacher(Worker):
    role = "teacher"

    async def ready(self):
        return 0

    async def score(self, prompt_tokens, completion_tokens, is_rehearsal):
        return 0, np.full(LARGE, completion_tokens[0], dtype=np.uint8)


node = {"num_cpus": 4, "object_store_memory": 80 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=node)
second = cluster.add_node(**node)
ray.init(cluster.address, log_to_driver=False)


def make(rank):
    beside = NodeAffinitySchedulingStrategy(second.node_id, soft=True)
    return ray.remote(Teacher).options(num_cpus=1, scheduling_strategy=beside).remote(rank, LOGS)


async def run():
    group = WorkerGroup("teacher", [make(0)], LOGS)
    await group.on_all(lambda actor: actor.ready.remote())
    pool = TeacherPool(group, None, make_plan(teacher=TeacherConfig(weights=TeacherWeights.FROZEN)))
    faults, looked_at = [], []
    replace_lost(group, make, pool, asyncio.Lock(), lambda: 0, RestartBudget(9), faults.append)
    score_lost_again(SimpleNamespace(check_payloads=looked_at.append), pool, group, faults.append)
    (with_payload,) = looked_at

    async def sample_of(number):
        example = make_example(number)
        written = {"completion_tokens": (number,), "logprobs": (0.0,), "truncated": False, "num_sampled": 1}
        rollout = Rollout(prompt_tokens=(1,), weight_version=0, **written)
        return make_sample(example, rollout, await pool.score(example, rollout))

    old = await sample_of(7)
    assert await with_payload(old) is old
    cluster.remove_node(second, allow_graceful=False)
    new = await sample_of(8)  # made again, once the worker is replaced
    assert await with_payload(new) is new
    whole = await with_payload(old)
    values = [int(ray.get(sample.scores.payload, timeout=10)[-1]) for sample in (whole, new)]
    print("FOUND " + json.dumps([values, [fault.kind.word for fault in faults]]))


try:
    asyncio.run(run())
finally:
    ray.shutdown()
    cluster.shutdown()
"""


def test_the_worker_of_a_node_that_is_gone_is_replaced_on_another_and_its_payloads_are_scored_again(
    tmp_path: os.PathLike[str],
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "2"}  # or 15 s
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    values, kinds = json.loads(line.removeprefix("FOUND "))
    assert values == [7, 8]
    # A newcomer may be sent to the dead node as long as Ray does not know of its death.
    assert [kind for kind in kinds if kind != "start failed"] == ["lost", "replaced", "rescored"]
