"""The same training with TRL's SDFTTrainer: trained samples per second, and peak memory of all processes together.

SmolLM2-135M-Instruct in fp32, one completion a prompt, KL(student || teacher) over the full vocabulary, an EMA teacher
with the demonstration in its prompt, AdamW, two threads each. Both sides read the same examples and show the teacher
the same text; they take turns, and the first step of every run does not count. TRL samples with transformers'
`generate`: its vLLM mode computes on GPUs. Memory counts a page that several processes share once, and covers the
whole run, start and end included.

The second table says how close each phase comes to the bound of its arithmetic, which counts every prompt in full. A
prefix that all prompts share is computed once, so a phase may beat it. Phases overlap and share the cores, so their
seconds add up to more than a step; "step" holds the sum of the bounds against the whole step.
"""

import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sdft_ray.config import DataConfig, TeacherConfig
from sdft_ray.data.dataset import tokenize_examples
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.teacher_template import Demonstration, TeacherTemplate
from sdft_ray.models.arithmetic import read_shape
from sdft_ray.models.embedded import embedded_model
from sdft_ray.models.folder import load_tokenizer
from tests.benchmarks.bound import Lengths, matmul_rate, phase_flops
from tests.benchmarks.command import STEPS_ONLY, CommandRun, run_command
from tests.benchmarks.examples import BFCL, bfcl_rows, builtin_rows, write_rows
from tests.benchmarks.processes import run_with_peak_memory
from tests.examples import load_examples

NUM_THREADS = 2
LEARNING_RATE, EMA_DECAY = 2e-4, 0.99
PHASES = {
    "rollout": "loop/rollout_s",
    "score": "loop/score_s",
    "forward_backward": "learner/forward_backward_s",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What both sides train on."""

    name: str
    examples: Path
    batch_size: int
    max_new_tokens: int
    template: str  # of the teacher prompt, by its name here; a single turn
    num_rounds: int  # in which both sides take their turn


@dataclass(frozen=True, slots=True)
class Side:
    """What one side came to on one workload."""

    step_s: list[float]  # of all rounds
    completion_tokens: float  # mean of a completion
    memory_gib: dict[str, float]  # of its processes by name, in the round in which they held most

    @property
    def peak_memory_gib(self) -> float:
        """Of all processes together."""
        return sum(self.memory_gib.values())

    @property
    def median_s(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.step_s)


def measure(names: tuple[str, ...] = ("facts", "tools"), num_steps: int = 4) -> dict[str, Any]:
    """Trains on the named workloads with both."""
    if not find_spec("trl"):
        return {"peer_raw": {"notes": ["TRL is not in this environment: `make bench` installs it."]}}
    headlines: dict[str, float] = {}
    rows, phases, processes, notes = [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in names:
            if name == "tools" and not BFCL.is_file():
                notes.append(f"tools: skipped, there is no {BFCL.name}; its folder is named in $SDFT_RAY_DATA.")
                continue
            workload = _workload(name, folder)
            ours, theirs, last = _take_turns(workload, folder, num_steps)
            headlines[f"trl_samples_ratio_{name}"] = theirs.median_s / ours.median_s
            headlines[f"trl_memory_ratio_{name}"] = ours.peak_memory_gib / theirs.peak_memory_gib
            rows += [_row(workload, "sdft_ray", ours), _row(workload, "TRL", theirs)]
            phases += _phase_rows(workload, last)
            processes += [
                {"workload": name, "process": process, "memory_gib": size} for process, size in ours.memory_gib.items()
            ]
    tables = {"": rows, "Share of the bound that each phase reaches": phases, "Our processes at the peak": processes}
    return headlines | {"peer_raw": {"tables": tables, "notes": notes}}


def _workload(name: str, folder: Path) -> Workload:
    path = folder / f"{name}.jsonl"
    if name == "facts":
        examples = write_rows(path, builtin_rows("facts", "taught[:8]"))
        return Workload(
            name=name, examples=examples, batch_size=8, max_new_tokens=20, template="single_turn_short", num_rounds=2
        )
    examples = write_rows(path, bfcl_rows(16))
    return Workload(name=name, examples=examples, batch_size=8, max_new_tokens=64, template="single_turn", num_rounds=1)


def _take_turns(workload: Workload, folder: Path, num_steps: int) -> tuple[Side, Side, CommandRun]:
    """Ours, theirs, and the last run of ours."""
    theirs, ours = [], []
    for number in range(workload.num_rounds):
        name = f"{workload.name}-{number}"
        theirs.append(_run_trl(workload, folder / f"trl-{name}", num_steps))
        ours.append(run_command(name, _settings(workload, num_steps), folder))
    tokens = partial(CommandRun.median, key="rollout/completion_tokens_mean")
    own = Side(
        step_s=[seconds for run in ours for seconds in run.values("loop/step_s")],
        completion_tokens=statistics.mean(map(tokens, ours)),
        memory_gib=max(ours, key=lambda run: run.peak_memory_gib).memory_gib,
    )
    other = Side(
        step_s=[seconds for side in theirs for seconds in side.step_s],
        completion_tokens=statistics.mean(side.completion_tokens for side in theirs),
        memory_gib=max(theirs, key=lambda side: side.peak_memory_gib).memory_gib,
    )
    return own, other, ours[-1]


def _settings(workload: Workload, num_steps: int) -> list[str]:
    return [
        *STEPS_ONLY,
        f"data.source={workload.examples}",
        f"batch_size={workload.batch_size}",
        f"num_steps={num_steps}",
        f"rollout.max_new_tokens={workload.max_new_tokens}",
        "rollout.kv_cache_gib=0.2",
        f"teacher.template={workload.template}",
        f"teacher.ema_decay={EMA_DECAY}",
        "loss.skip_first_tokens=0",
        f"learner.learning_rate={LEARNING_RATE}",
        "learner.zero_stage=0",
        "learner.max_tokens_per_microbatch=512",  # less memory, and the first begins while others are still sampled
        "teacher.max_tokens_per_forward=1024",
        "cluster.dashboard=false",  # TRL has none
    ]


def _run_trl(workload: Workload, folder: Path, num_steps: int) -> Side:
    folder.mkdir()
    # Our template with TRL's placeholders in it is TRL's template.
    (turn,) = TeacherTemplate(TeacherConfig(template=workload.template)).render(
        question="{prompt}", demonstrations=[Demonstration("{privileged_context}", question="{prompt}")]
    )
    template = turn.content
    job = {
        "model": embedded_model(),
        "examples": str(workload.examples),
        "template": template,
        "batch_size": workload.batch_size,
        "num_steps": num_steps,
        "max_new_tokens": workload.max_new_tokens,
        "learning_rate": LEARNING_RATE,
        "ema_decay": EMA_DECAY,
        "folder": str(folder),
        "result": str(folder / "result.json"),
    }
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "tests.benchmarks.peer_trl", str(folder / "job.json")]
    environment = os.environ | {"OMP_NUM_THREADS": str(NUM_THREADS), "HF_HUB_OFFLINE": "1"}
    memory = run_with_peak_memory(command, folder / "log.txt", environment)
    result = json.loads((folder / "result.json").read_text())
    return Side(result["step_s"][1:], statistics.mean(result["completion_tokens"]), memory)


def _row(workload: Workload, which: str, side: Side) -> dict[str, Any]:
    return {
        "workload": workload.name,
        "which": which,
        "step_s": side.median_s,
        "step_s_min": min(side.step_s),
        "step_s_max": max(side.step_s),
        "samples_per_s": workload.batch_size / side.median_s,
        "peak_memory_gib": side.peak_memory_gib,
        "completion_tokens_mean": side.completion_tokens,
    }


def _phase_rows(workload: Workload, run: CommandRun) -> list[dict[str, Any]]:
    """The bound and the seconds of each phase, and of the whole step."""
    folder = embedded_model()
    builder = PromptBuilder(load_tokenizer(folder), TeacherConfig(template=workload.template))
    examples = load_examples(str(workload.examples), "", {}, "", 0)
    prompts = tokenize_examples(examples, builder, DataConfig(source=str(workload.examples))).rows
    completion = round(run.median("rollout/completion_tokens_mean"))
    samples = [Lengths(len(row.prompt_tokens), len(row.teacher_prompt_tokens), completion) for row in prompts]
    rate = matmul_rate(NUM_THREADS)
    bounds = {phase: flops / rate for phase, flops in phase_flops(read_shape(folder), samples).items()}
    seconds = {phase: run.median(key) for phase, key in PHASES.items()}
    bounds["step"], seconds["step"] = sum(bounds.values()), run.median("loop/step_s")
    return [
        {
            "workload": workload.name,
            "phase": phase,
            "bound_s": bounds[phase],
            "measured_s": seconds[phase],
            "share_of_bound": bounds[phase] / seconds[phase],
            "gflop_per_s": rate / 1e9,
        }
        for phase in bounds
    ]


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
