"""The command as a user runs it, on a tiny random model: real Ray, vLLM and DeepSpeed, every role on the CPU."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny import make_tiny_model

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "+cluster=local",
    "model=custom",
    "model.dtype=FLOAT32",
    "data=jsonl",  # which, unlike data=facts, brings no evaluation sets
    "data.source='builtin:facts:taught[:8]'",
    "evaluation.prior=''",
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


EVALUATED = ["+evaluation.sets.taught='builtin:facts:taught[:4]'", "loss.skip_first_tokens=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model"), context=1024)


@pytest.fixture(scope="module")
def launch(cluster: None, folder: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs the command on the tests' Ray cluster; answers its run folder and its output."""
    runs = tmp_path_factory.mktemp("runs")
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}

    def run(name: str, *overrides: str, fails: bool = False) -> tuple[Path, str]:
        command = [sys.executable, "-m", "sdft_ray.launch", *SETTINGS, f"model.path={folder}"]
        command += [f"runs_dir={runs}", f"name={name}", *overrides]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
        output = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, output
        return runs / name, output

    return run


@pytest.fixture(scope="module")
def first_run(launch: Callable[..., Any]) -> tuple[Path, str]:
    return launch(
        "first", *EVALUATED, "num_steps=4", "checkpoint_every=2", "tracking.wandb=offline", "learner.zero_stage=3"
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def step_lines(folder: Path) -> list[dict[str, float]]:
    """The metrics of the steps without what a clock measured."""
    return [
        {key: value for key, value in line.items() if not key.endswith("_s")}
        for line in lines(folder / "metrics.jsonl")
        if "learner/loss" in line
    ]


def test_a_run_leaves_everything_a_user_looks_for(first_run: tuple[Path, str]) -> None:
    folder, output = first_run
    assert [line["step"] for line in step_lines(folder)] == [1, 2, 3, 4]
    for part in ("config.yaml", "summary.json", "answers.jsonl", "model/config.json", "model/tokenizer.json", "wandb"):
        assert (folder / part).exists(), part
    assert {path.name for path in (folder / "logs").iterdir()} >= {"rollout-0.log", "teacher-0.log", "learner-0.log"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step-000002", "step-000004"}
    samples = lines(folder / "samples.jsonl")
    assert len(samples) == 8
    assert all(len(sample["divergence"]) == len(sample["token_ids"]) for sample in samples)
    for shown in ("step 4/4", "taught accuracy", str(folder)):
        assert shown in output


def test_the_summary_tells_what_the_run_was(first_run: tuple[Path, str]) -> None:
    summary = json.loads((first_run[0] / "summary.json").read_text())
    assert summary["num_steps"] == 4
    assert summary["weight_version"] == {"rollout": [4], "teacher": [4], "learner": [4]}
    assert summary["max_staleness"] == 0
    assert summary["mismatch"] < 1e-4, "vLLM's logprobs are the learner's"
    assert summary["divergence"]["first"] > 1e-4, "the demonstration changes the teacher"
    assert summary["rollout_tokens"] > 0
    assert set(summary["evaluation"]["taught_accuracy"]) == {"before", "after"}
    assert set(summary["peak_memory_gib"]) == {"rollout", "teacher", "learner"}


def test_the_same_run_submitted_as_a_ray_job_gives_the_same_metrics(
    first_run: tuple[Path, str], cluster: Any, folder: str, tmp_path: Path
) -> None:
    def submit() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "launch/submit.py", f"http://{cluster.dashboard_url}", *SETTINGS, *EVALUATED]
        command += [f"model.path={folder}", f"runs_dir={tmp_path}", "name=again", "num_steps=4", "learner.zero_stage=3"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)

    good = submit()
    assert good.returncode == 0, good.stdout + good.stderr
    assert "step 4/4" in good.stdout and "SUCCEEDED" in good.stdout
    for one, other in zip(step_lines(first_run[0]), step_lines(tmp_path / "again"), strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5)
    taken = submit()
    assert taken.returncode == 1
    assert "error: name=again: the run folder" in taken.stdout and "FAILED" in taken.stdout


def test_a_resumed_run_ends_where_the_whole_one_did(first_run: tuple[Path, str], launch: Callable[..., Any]) -> None:
    whole = step_lines(first_run[0])
    checkpoint = first_run[0] / "checkpoints" / "step-000002"
    resumed, output = launch("resumed", *EVALUATED, "num_steps=4", "learner.zero_stage=3", f"resume={checkpoint}")
    assert [line["step"] for line in step_lines(resumed)] == [3, 4]
    for one, other in zip(whole[2:], step_lines(resumed), strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5)
    assert "resumed" in output


def test_supervised_fine_tuning_is_the_same_loop_without_a_teacher(launch: Callable[..., Any]) -> None:
    run, output = launch("sft", "method=sft", "num_steps=6", "learner.schedule=CONSTANT")
    losses = [line["learner/loss"] for line in step_lines(run)]
    assert losses[-1] < losses[0]
    assert json.loads((run / "summary.json").read_text())["weight_version"] == {"learner": [6]}
    assert "teacher" not in output and "rollout" not in output, "roles nobody needs are not started"


def test_an_asynchronous_run_from_the_export_stays_within_its_bound_and_begins_without_divergence(
    first_run: tuple[Path, str], launch: Callable[..., Any]
) -> None:
    """Without a demonstration teacher and student are the same network until the first step."""
    exported = first_run[0] / "model"
    asynchronous = ["num_steps=6", "max_staleness=2", "teacher.context=NONE", "loss.skip_first_tokens=0"]
    run, _ = launch("async", f"model.path={exported}", *asynchronous)
    steps = step_lines(run)
    assert abs(steps[0]["learner/divergence_nats"]) < 1e-6
    assert steps[0]["learner/mismatch_max_nats"] < 1e-4
    staleness = [line["loop/staleness_max"] for line in steps]
    assert max(staleness) <= 2
    assert max(staleness) >= 1
    network = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who?"}], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    assert network(prompt).logits.isfinite().all()


def test_a_name_that_is_taken_is_refused_and_nothing_lost(
    first_run: tuple[Path, str], launch: Callable[..., Any]
) -> None:
    before = (first_run[0] / "metrics.jsonl").read_text()
    _, output = launch("first", "num_steps=1", fails=True)
    assert "error: name=first: the run folder" in output
    assert "resume=auto" in output
    assert (first_run[0] / "metrics.jsonl").read_text() == before


def test_gpus_that_are_not_there_are_refused_within_seconds(folder: str, tmp_path: Path) -> None:
    """On a Ray of its own, which has none."""
    started = time.monotonic()
    command = [sys.executable, "-m", "sdft_ray.launch", *SETTINGS[1:-3], "+cluster=8xA100", "name=gpus"]
    command += [f"model.path={folder}", f"runs_dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=own_ray(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.startswith("error: cluster=8xA100 needs 8 GPUs, this Ray cluster has 0; use +cluster=local")
    assert time.monotonic() - started < 90


def test_a_wrong_model_path_and_a_bad_row_are_refused_before_anything_starts(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    _, output = launch("nowhere", f"model.path={tmp_path}", fails=True)
    assert "the folder has no config.json" in output
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Who?", "demonstration": "She."}\n{"prompt": "Who?"}\n')
    _, output = launch("bad-row", f"data.source={rows}", fails=True)
    assert f"{rows}, line 2" in output and "demonstration" in output


def stop(job: subprocess.Popen[bytes], how: signal.Signals) -> None:
    job.send_signal(how)


def kill(job: subprocess.Popen[bytes], process_name: str) -> None:
    """Ends one process of the job's tree at once, as the kernel does when memory runs out."""
    victims = [
        process
        for process in psutil.Process(job.pid).children(recursive=True)
        if process_name in " ".join(process.cmdline())
    ]
    assert victims, process_name
    victims[0].kill()


ONLY_A_LEARNER = ["method=sft"]  # starts in a quarter of the time
ENDS = {
    "Ctrl-C": ([], lambda job: stop(job, signal.SIGINT), 130, "error: interrupted"),
    "dead engine": ([], lambda job: kill(job, "VLLM::EngineCore"), 1, "error: rollout worker 0 failed"),
    "SIGTERM": (ONLY_A_LEARNER, lambda job: stop(job, signal.SIGTERM), 143, "error: terminated"),
    "dead learner": (ONLY_A_LEARNER, lambda job: kill(job, "ray::Learner"), 1, "error: learner worker 0 failed"),
}


@pytest.mark.parametrize("end", ENDS)
def test_however_a_run_ends_it_leaves_no_process_behind_and_says_why_once(
    folder: str, tmp_path: Path, end: str
) -> None:
    """On a Ray of its own: the whole tree of processes has to go."""
    settings, act, code, said = ENDS[end]
    command = [sys.executable, "-m", "sdft_ray.launch", *SETTINGS, f"model.path={folder}", f"runs_dir={tmp_path}"]
    command += ["name=ended", "num_steps=100000", "checkpoint_every=0", *settings]
    log = tmp_path / "output.log"
    with log.open("w") as output:
        # A test run in the background ignores SIGINT, and what it starts would inherit that.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        job = subprocess.Popen(command, cwd=ROOT, env=own_ray(), stdout=output, stderr=output, preexec_fn=heed)
        try:
            metrics = tmp_path / "ended" / "metrics.jsonl"
            wait_until(lambda: (metrics.exists() and len(metrics.read_text()) > 0) or job.poll() is not None, 300)
            assert job.poll() is None, log.read_text()
            tree = psutil.Process(job.pid).children(recursive=True)
            act(job)
            assert job.wait(timeout=120) == code, log.read_text()
        finally:
            job.terminate()  # where an assertion failed it still runs; it ends its own tree
            job.wait(timeout=60)
    wait_until(lambda: not [process for process in tree if is_alive(process)], 30)
    assert not [process for process in tree if is_alive(process)]
    text = log.read_text()
    assert text.count("error: ") == 1
    assert said in text.rstrip().split("\n\n")[-1]


def own_ray() -> dict[str, str]:
    """An environment in which the command starts a Ray of its own."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.5)
