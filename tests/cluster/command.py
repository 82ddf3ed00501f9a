"""The command on a tiny model, with every role on one thread."""

import os
import socket
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "+cluster=local",
    "model=custom",
    "model.dtype=FLOAT32",
    "data=jsonl",  # which, unlike data=facts, brings no evaluation sets
    "data.source='builtin:facts:taught[:8]'",
    "evaluation.prior=''",
    "evaluation.general=''",
    "evaluation.max_new_tokens=8",
    "rollout.max_new_tokens=12",
    "rollout.kv_cache_gib=0.125",
    "learner.warmup_steps=0",
    "learner.learning_rate=1e-3",
    "batch_size=4",
    "cluster.rollout.threads_per_worker=1",
    "cluster.teacher.threads_per_worker=1",
    "cluster.learner.threads_per_worker=1",
]


def users_environment(**variables: str) -> dict[str, str]:
    """That of a user's shell: what Ray and wandb, started by the tests, have set in this process is not in it."""
    set_here = {"RAY_ADDRESS", "RAY_AUTH_MODE", "WANDB_SERVICE"}
    return {name: value for name, value in os.environ.items() if name not in set_here} | variables


def free_ports(number: int) -> list[int]:
    """Ports of the loopback that nobody listens at, all different."""
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
