"""Every environment variable this job sets, and why. Actors get them before their first import."""

import os
import socket
import sys
from pathlib import Path

from sdft_ray.config import RolePlacement

# For the driver, and through it for Ray's own processes: set before Ray starts.
DRIVER = {
    # DeepSpeed calls ninja by name; it lies beside the interpreter, whether or not the environment was activated.
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    "RAY_USAGE_STATS_ENABLED": "0",  # a training job does not phone home
    "TOKENIZERS_PARALLELISM": "false",  # a tokenizer's threads would outlive a fork and warn about it
    "TRANSFORMERS_VERBOSITY": "error",
}

# For a Ray of the run's own, where the user has not set them.
OWN_RAY = {
    # Calls that Ray's head keeps a record of, 3 KB each. A step makes eight and more: with Ray's own 100,000 the head
    # grew from 29 to 360 MiB in some 12,000 steps. 'ray list tasks' shows 10,000 at most.
    "RAY_task_events_max_num_task_in_gcs": "10000",
}

# Passed on from the driver's environment to every actor where set. No secrets: Ray writes what is passed to its logs.
# The driver alone asks the hub, wandb and a judge.
PASSED_ON = (
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "VLLM_USE_V2_MODEL_RUNNER",  # 0 or 1; unset, vLLM 0.32 takes its Model Runner V2 on a GPU
)
PASSED_ON_PREFIXES = ("NCCL_", "TORCH_NCCL_", "GLOO_")  # how ranks reach one another is a matter of the machines

# How often a thread looks for the others at a barrier before it sleeps. GNU OpenMP takes 300,000, and this where one
# process has more threads than there are cores. It cannot see the other roles on the same cores: two processes of two
# threads each on two cores needed 41 s for products that took 15 s with this. A process alone was no slower with it.
SPIN_COUNT = "1000"

# What torch 2.13 reads of its GPU allocator: the first that is set.
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")

# Whose process it is, for mode=stacks; the processes that a worker starts, such as an engine's, inherit both.
RUN, WORKER = "SDFT_RAY_RUN", "SDFT_RAY_WORKER"


def run_mark(folder: Path, host: str = "") -> str:
    """What `RUN` is for the run of a folder whose driver is on `host`, by default this one."""
    return f"{host or socket.gethostname()}:{folder.resolve()}"


def worker_marks(folder: Path, role: str, rank: int) -> dict[str, str]:
    """The environment by which the processes of one worker are known, made on the driver's host."""
    return {RUN: run_mark(folder), WORKER: f"{role} {rank}"}


def actor_environment(role: str, placement: RolePlacement) -> dict[str, str]:
    """The environment of one actor of `role`."""
    threads = str(placement.threads_per_worker)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in (*PASSED_ON, *ALLOCATOR) or name.startswith(PASSED_ON_PREFIXES)
    }
    environment |= {
        "OMP_NUM_THREADS": threads,  # every role its share of the cores: more threads cost a factor of ten
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",  # a killed worker's log holds its last words
    }
    on_cpu = placement.device == "cpu"
    if on_cpu:
        # Large buffers come from the heap and stay there: giving them back to the kernel after every step costs 7 % of
        # a step in page faults.
        environment |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
        environment |= {"GOMP_SPINCOUNT": SPIN_COUNT}
    elif role in ("learner", "teacher") and placement.gpus_per_worker <= 1 and not environment.keys() & set(ALLOCATOR):
        # Microbatches of ever new lengths would leave gaps that no later one fits. An engine on several GPUs adds up
        # over CUDA IPC, which does not take such memory.
        environment |= {ALLOCATOR[0]: "expandable_segments:True"}
    if role in ("rollout", "teacher"):  # a teacher may be a vLLM engine, too
        environment |= {"VLLM_LOGGING_LEVEL": "INFO", "VLLM_NO_USAGE_STATS": "1"}
        if on_cpu:
            environment |= {
                # vLLM would pin its threads to cores of its choice, the same ones in every engine.
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                # Keeps the engine's core and its one worker in one process. As two, the core spins on a processor
                # while it waits for the worker. (The name is the offline engine's; the asynchronous one starts its
                # own process either way.)
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            }
    if role == "learner" and on_cpu:
        environment |= {"DS_ACCELERATOR": "cpu"}  # DeepSpeed would look for a GPU and warn
    return environment
