"""Runs of the command, all roles on one device; a run that several parts compare with is made once."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.command import CommandRun, run_command
from tests.cluster.command import SETTINGS
from tests.gpu_check.checks import hold
from tests.gpu_check.parts import Place
from tests.tiny import make_tiny_model

NUM_STEPS = 6
TURNS = ("cluster.turns=true",)
LORA = ("model.adapter.kind=LORA", "model.adapter.rank=4")
TWO_GPUS = (  # a whole one for each end of the channel; the teacher computes on the CPU
    "cluster.gpus_per_node=2",
    "cluster.rollout.gpus_per_worker=1",
    "cluster.teacher.gpus_per_worker=0",
    "cluster.learner.gpus_per_worker=1",
)
# Some 34 million weights on a GPU, most of them in the head, which a tiny model's tolerances hold for.
ON_GPU = {"hidden": 256, "vocab": 2**17}
RUNS: dict[str, tuple[str, ...]] = {
    "shared memory": ("weights.channel=SHARED_MEMORY",),
    "object store": ("weights.channel=OBJECT_STORE",),
    "NCCL": (*TWO_GPUS, "weights.channel=NCCL"),
    "in turns": TURNS,
    "in turns, offloaded": (*TURNS, "learner.offload=true"),
    "an adapter": LORA,
    "an adapter, in turns": (*TURNS, *LORA),
}
# |trainer logprob - sampler logprob| of any token [nats]: as tests/gpu/test_run.py has it.
MISMATCH = {"cuda": 1.0, "cpu": 1e-3}


def settings(name: str, device: str, folder: str) -> list[str]:
    """Those of a run with a model folder, on a GPU in bf16 and on a CPU in fp32."""
    place = ["+cluster=local"]
    if device == "cuda":
        place = ["+cluster=1xH100", "cluster.turns=false", "cluster.object_store_gib=4"]
    own = [*place, *SETTINGS[1:], f"model.path={folder}", f"num_steps={NUM_STEPS}", "learner.zero_stage=2"]
    return [*own, *(["model.dtype=AUTO"] if device == "cuda" else []), *RUNS[name]]


def measure(place: Place, names: Sequence[str]) -> dict[str, Any]:
    """A row a run; the first trains all weights. Each run in turns looks itself at its engine after every wake.

    Raises:
        AssertionError: an engine computed other logprobs than the learner, or an adapter publishes all weights.
    """
    rows = [_row(name, run(name, place), place.device) for name in names]
    for row in rows:
        if "adapter" in row["run"]:
            assert row["published_mib"] < rows[0]["published_mib"], f"{row['run']} publishes all weights"
    return {"tables": {"": rows}}


def run(name: str, place: Place) -> CommandRun:
    """The run, from the scratch folder where it is there already."""
    short = name.replace(", ", "-").replace(" ", "-")
    if (place.scratch / short / "summary.json").exists():
        return _finished(place.scratch / short)
    folder = place.scratch / "model"
    if not folder.exists():
        make_tiny_model(folder, context=1024, **ON_GPU if place.device == "cuda" else {})
    return run_command(short, settings(name, place.device, str(folder)), place.scratch)


def _finished(folder: Path) -> CommandRun:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    return CommandRun(folder, [line for line in lines if "loop/step_s" in line], summary, {})


def _row(name: str, run: CommandRun, device: str) -> dict[str, Any]:
    mismatch = max(step["learner/mismatch_max_nats"] for step in run.steps)
    memory = run.summary["peak_gpu_memory_gib"] if device == "cuda" else run.summary["peak_memory_gib"]
    return {
        "run": name,
        "step_s": run.median("loop/step_s"),
        "publish_s": run.median("weights/publish_s"),
        "load_s": run.median("weights/load_s"),
        "published_mib": run.median("weights/published_bytes") / 2**20,
        "optimizer_s": run.median("learner/optimizer_s"),
        "change_s": run.median("turns/change_s") if "turns/change_s" in run.steps[-1] else None,
        "mismatch_nats": hold(f"{name}: the engine's logprobs", mismatch, MISMATCH[device]),
        **{f"{role}_gib": peaks["max"] for role, peaks in sorted(memory.items()) if role != "driver"},
    }
