"""What the keys of a run mean on the page: their titles, their form, and which of them belong together."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sdft_ray.errors import ConfigError
from sdft_ray.report.axes import Form
from sdft_ray.report.runs import Run
from sdft_ray.tracking.metrics import find_metric

ACCURACY = re.compile(r"evaluation/(.+)_accuracy")
PRIOR, MEAN = "prior", "mean"  # an evaluation set; the mean of the benchmarks
UNSCORED = re.compile(r"evaluation/(.+)_unscored")
PASS_AT_K = re.compile(r"evaluation/(.+)_pass_at_(\d+)")
UNITS = ("nats", "tokens", "share", "s", "gib", "bytes")
SHARES = ("_accuracy", "_share", "_rate")

LEARNING = (
    "learner/divergence_nats",
    "learner/loss",
    "learner/student_entropy_nats",
    "learner/teacher_entropy_nats",
    "rollout/completion_tokens_mean",
    "rollout/truncated_share",
    "evaluation/context_gap_nats",
    "rollout/copied_share",
    "learner/grad_norm",
)
TITLES = {
    "learner/divergence_nats": "Divergence from the teacher",
    "learner/loss": "Loss",
    "learner/student_entropy_nats": "Entropy of the student",
    "learner/teacher_entropy_nats": "Entropy of the teacher",
    "rollout/completion_tokens_mean": "Length of a completion",
    "rollout/truncated_share": "Completions cut at the limit",
    "learner/grad_norm": "Gradient norm",
    "rehearsal/divergence_nats": "Divergence of rehearsal from the initial weights",
    "rehearsal/taught_divergence_nats": "Divergence from the teacher, without rehearsal",
    "evaluation/context_gap_nats": "Gain by the demonstration",
    "evaluation/prior_logprob_nats": "Logprob of prior knowledge",
    "learner/divergence_first_nats": "Divergence, positions 0 to 7",
    "learner/divergence_early_nats": "Divergence, positions 8 to 31",
    "learner/divergence_middle_nats": "Divergence, positions 32 to 127",
    "learner/divergence_last_nats": "Divergence, positions from 128",
    "retention/base_student_kl_nats": "KL(base || student)",
    "retention/student_base_kl_nats": "KL(student || base)",
    "rollout/copied_share": "Copied from the demonstration",
}
# Times, counts and controls: they say how a run went, not what it learned.
NOT_LEARNING = re.compile(
    r"weights/.*|.*_per_s|.*_s|.*_bytes|.*/tokens|.*_tokens|.*_samples|.*staleness.*|learner/learning_rate|"
    r"loop/.*|learner/(padded|shared|matmul)_share|learner/(mismatch|correction)_.*|evaluation/(?!context_gap).*|"
    r"(retention|harness)/.*|rehearsal/(?!taught).*"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tasks:
    """What stands for the new task, and what for what the model could before: metrics whose mean is taken."""

    new: tuple[str, ...]
    prior: tuple[str, ...]

    def last_step(self, run: Run) -> int | None:
        """The last step after training began at which both were measured."""
        measured = [set(run.values(key)) for key in (*self.new, *self.prior)]
        return max(set.intersection(*measured) - {0}, default=None) if self.new and self.prior else None


def mean_at(run: Run, keys: Sequence[str], step: int) -> float | None:
    """The mean of metrics after a step; None unless all were measured there."""
    values = [run.values(key).get(step) for key in keys]
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found and len(found) == len(keys) else None


def keys_of(runs: Iterable[Run]) -> tuple[str, ...]:
    """All metrics of the runs, in the order in which they first appear."""
    return tuple(dict.fromkeys(key for run in runs for line in run.lines for key in line.metrics))


def accuracy_key(set_name: str) -> str:
    """The metric that holds the accuracy on an evaluation set."""
    return f"evaluation/{set_name}_accuracy"


def unscored_key(set_name: str) -> str:
    """The metric that counts the answers to an evaluation set that could not be scored."""
    return f"evaluation/{set_name}_unscored"


def evaluation_sets(keys: Iterable[str]) -> tuple[str, ...]:
    """The sets whose accuracy is among the keys."""
    return tuple(match.group(1) for key in keys if (match := ACCURACY.fullmatch(key)))


def choose_tasks(keys: Sequence[str], new: Sequence[str], prior: Sequence[str]) -> Tasks:
    """The metrics of report.task and report.prior.

    Without the first, the first evaluation set that is none of the second; without the second, the mean of the
    benchmarks where they were run, else the set "prior".

    Raises:
        ConfigError: no run has measured a set that is named.
    """
    if not prior:
        prior = [MEAN] if _benchmark_key(MEAN) in keys else [PRIOR]
    elif missing := [name for name in prior if _key_of(name, keys) not in keys]:
        raise _not_measured("report.prior", missing[0], keys)
    if missing := [name for name in new if _key_of(name, keys) not in keys]:
        raise _not_measured("report.task", missing[0], keys)
    rest = [name for name in evaluation_sets(keys) if name not in (*prior, PRIOR)]
    return Tasks(
        new=tuple(_key_of(name, keys) for name in new or rest[:1]),
        prior=tuple(_key_of(name, keys) for name in prior),
    )


def set_name(key: str) -> str:
    """The evaluation set or benchmark of an accuracy."""
    return key.partition("/")[2].removesuffix("_accuracy")


def _key_of(name: str, keys: Sequence[str]) -> str:
    """An evaluation set's accuracy; a benchmark's where there is no such set."""
    benchmark = _benchmark_key(name)
    return benchmark if benchmark in keys and accuracy_key(name) not in keys else accuracy_key(name)


def _benchmark_key(name: str) -> str:
    return f"harness/{name}_accuracy"


def _not_measured(key: str, name: str, keys: Sequence[str]) -> ConfigError:
    names = ", ".join(dict.fromkeys(set_name(one) for one in keys if one.endswith("_accuracy"))) or "none"
    return ConfigError(key, f"[{name}]", "is nothing that a run has measured", f"choose from: {names}")


def title(key: str) -> str:
    """What a person calls the metric."""
    if key in TITLES:
        return TITLES[key]
    if match := ACCURACY.fullmatch(key):
        return f"Accuracy, {match.group(1)}"
    if key.startswith("harness/"):
        return f"Benchmark, {set_name(key)}"
    if match := PASS_AT_K.fullmatch(key):
        return f"pass@{match.group(2)}, {match.group(1)}"
    words = key.partition("/")[2].split("_")
    if words[-1] in UNITS and len(words) > 1:
        words = words[:-1]
    return f"{' '.join(words).capitalize()} ({key.partition('/')[0]})"


def unit(key: str) -> str:
    """What the metric counts; "" for plain numbers, shares and what nothing declares."""
    try:
        declared = find_metric(key)[0].unit
    except KeyError:  # written by another version
        last = key.rpartition("_")[2]
        declared = last if last in UNITS else ""
    return "" if declared in ("1", "share") else declared


def named(key: str) -> str:
    """The title with the unit."""
    return f"{title(key)}, {unit(key)}" if unit(key) else title(key)


def form(key: str) -> Form:
    """How the metric is written."""
    is_share = key.endswith(SHARES) or PASS_AT_K.fullmatch(key) is not None
    return Form.SHARE if is_share else Form.NUMBER


def learning_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """What is drawn over the steps: the known quantities first, then what else the runs tell about learning."""
    known = [key for key in LEARNING if key in keys]
    return (*known, *(key for key in keys if key not in known and not NOT_LEARNING.fullmatch(key)))


def retention_keys(keys: Sequence[str], tasks: Tasks) -> tuple[str, ...]:
    """What tells how much of the old is left."""
    own = (*tasks.prior, accuracy_key(PRIOR), "evaluation/prior_logprob_nats", "rehearsal/divergence_nats")
    return tuple(key for key in keys if key in own or key.startswith(("retention/", "harness/")))
