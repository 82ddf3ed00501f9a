"""Settings, workloads and plans as the command would make them, from overrides."""

from hydra import compose, initialize_config_dir

from sdft_ray.config import RunConfig
from sdft_ray.launch import CONF, typed_config
from sdft_ray.planning.plan import Plan, plan_of
from sdft_ray.planning.workload import Workload, read_workload

ROLES = ("rollout", "teacher", "learner")
# What closed forms of bytes are written down for; on GPUs a run takes bf16, and one node shares memory.
IN_FP32 = ("model.dtype=FLOAT32", "learner.precision=FLOAT32", "weights.channel=OBJECT_STORE")


def config(*overrides: str) -> RunConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return typed_config(compose("config", ["mode=plan", *overrides]))


def workload(*overrides: str) -> Workload:
    """Of a model whose shape is known, unless the overrides name another."""
    return read_workload(config("plan.model=qwen2.5-7b", *overrides), ROLES)


def plan(*overrides: str) -> Plan:
    cfg = config(*overrides)
    return plan_of(read_workload(cfg, cfg.needed_roles()))
