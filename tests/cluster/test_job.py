"""The command as a user runs it, on a tiny random model: real Ray, vLLM and DeepSpeed, every role on the CPU."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdft_ray.learner.export import UNVERIFIED_FILE
from sdft_ray.tracking.grafana import EXPORTED, dashboard
from sdft_ray.tracking.metrics import WORKER_METRICS, find_metric
from sdft_ray.tracking.ray_metrics import gauge_name
from sdft_ray.watch.frame import State
from sdft_ray.watch.sources import FolderSource
from tests.cluster.command import ROOT, SETTINGS, users_environment
from tests.cluster.prometheus import PROGRAM, Prometheus, running_prometheus
from tests.cluster.watched import Seen, see

WORKERS = ("rollout", "teacher", "learner")
NOT_REPEATED = {"learner/matmul_share"}
EVALUATED = [
    "+evaluation.sets.taught='builtin:facts:taught[:4]'",
    "evaluation.general='builtin:general:test[:4]'",
    "loss.skip_first_tokens=0",
]
# A notebook's own event loop runs while a cell does.
NOTEBOOK = """
import asyncio, sys
from sdft_ray import compose_config, train

async def cell():
    result = train(compose_config(*sys.argv[1:]))
    print(f"returned {result.folder}, {result.summary['num_steps']} steps")

asyncio.run(cell())
"""
RETENTION = ("retention/base_student_kl_nats", "retention/student_base_kl_nats")


@pytest.fixture(scope="module")
def prometheus(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus | None]:
    """Scrapes while the runs of this file go on; None where the program is not installed."""
    if PROGRAM is None:
        yield None
        return
    with running_prometheus(tmp_path_factory.mktemp("prometheus")) as prometheus:
        yield prometheus


@pytest.fixture(scope="module")
def watched(cluster: Any, runs: Path) -> Iterator[Future[Seen]]:
    """What is seen of the first run while it goes on."""
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(see, runs / "first", cluster.dashboard_url)


@pytest.fixture(scope="module")
def first_run(command: Callable[..., Any], prometheus: Prometheus | None, watched: Future[Seen]) -> tuple[Path, str]:
    sinks = ["tracking.wandb=offline", "tracking.wandb_artifact=true", "tracking.tensorboard=true"]
    traced = "tracking.trace_steps=[2,3]"
    return command("first", *EVALUATED, *sinks, traced, "num_steps=4", "checkpoint_every=2", "learner.zero_stage=3")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def evaluations(folder: Path) -> list[dict[str, float]]:
    return [line for line in lines(folder / "metrics.jsonl") if "evaluation/taught_accuracy" in line]


def step_lines(folder: Path) -> list[dict[str, float]]:
    """The metrics of the steps without what a clock measured, and what a resumed run publishes once more."""
    return [
        {key: value for key, value in line.items() if not key.endswith("_s") and key not in NOT_REPEATED}
        for line in lines(folder / "metrics.jsonl")
        if "learner/loss" in line
    ]


def test_prometheus_answers_a_query_for_each_metric_and_knows_every_rule(
    first_run: tuple[Path, str], prometheus: Prometheus | None
) -> None:
    if prometheus is None:
        pytest.skip("prometheus is not installed; it is a package of Debian")
    of_run = '{run="first"}[1h]'
    keys = {key for line in lines(first_run[0] / "metrics.jsonl") for key in line} - {"step", "time_s"}
    assert len(keys) > 40
    for key in sorted(keys):
        metric, set_name = find_metric(key)
        found = prometheus.labels(f"last_over_time({EXPORTED}{gauge_name(metric)}{of_run})")
        assert set_name in {labels.get("set", "") for labels in found}, key
        role = key.partition("/")[0]
        assert {labels["role"] for labels in found} == {role if role in WORKERS else "driver"}, key
    for metric in WORKER_METRICS:
        found = prometheus.labels(f"last_over_time({EXPORTED}{gauge_name(metric)}{of_run})")
        assert {(labels["role"], labels["rank"]) for labels in found} == {(role, "0") for role in WORKERS}
        assert all(labels["node"] for labels in found)
    assert prometheus.labels("ray_object_store_used_memory / ray_object_store_available_memory")
    (group,) = prometheus.ask("rules")["groups"]
    assert group["rules"] and {rule["health"] for rule in group["rules"]} == {"ok"}
    for panel in dashboard()["panels"]:
        if panel["type"] != "row":
            prometheus.ask("query", query=panel["targets"][0]["expr"].replace("$run", "first"))


def test_a_trace_has_a_process_for_each_worker_and_what_each_of_them_did(first_run: tuple[Path, str]) -> None:
    folder, output = first_run
    trace = json.loads((folder / "traces" / "steps-2-3.json").read_text())
    assert f"trace          {folder / 'traces' / 'steps-2-3.json'}" in output
    names = {
        event["pid"]: event["args"]["name"].partition(" (")[0]
        for event in trace["traceEvents"]
        if event["name"] == "process_name"
    }
    assert list(names.values()) == ["driver", "rollout worker 0", "teacher worker 0", "learner worker 0"]
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    done = {name: {span["name"] for span in spans if names[span["pid"]] == name} for name in names.values()}
    assert done["driver"] >= {"step 2", "step 3", "rollout", "score", "load_weights", "save"}
    assert done["rollout worker 0"] >= {"sample", "load weights", "wait"}
    assert done["teacher worker 0"] >= {"score", "load weights", "wait"}
    assert done["learner worker 0"] >= {"forward and backward", "optimizer", "average", "publish", "save", "wait"}
    (second,) = [span for span in spans if span["name"] == "step 2"]
    scored = [span for span in spans if span["name"] == "score" and names[span["pid"]] == "teacher worker 0"]
    of_second = [span["args"]["sequences"] for span in scored if span["args"]["step"] == 2]
    assert sum(of_second) == second["args"]["sequences"] == 4
    inside = [span for span in spans if span["name"] == "forward and backward" and span["args"]["step"] == 2]
    assert inside, "the clocks of driver and rank are one clock"
    for span in inside:
        assert second["ts"] <= span["ts"] and span["ts"] + span["dur"] <= second["ts"] + second["dur"]


def test_a_run_leaves_everything_a_user_looks_for(first_run: tuple[Path, str]) -> None:
    folder, output = first_run
    assert [line["step"] for line in step_lines(folder)] == [1, 2, 3, 4]
    for part in (
        "config.yaml",
        "summary.json",
        "answers.jsonl",
        "model/config.json",
        "model/tokenizer.json",
        "wandb",
        "tensorboard",
    ):
        assert (folder / part).exists(), part
    assert {path.name for path in (folder / "logs").iterdir()} >= {"rollout-0.log", "teacher-0.log", "learner-0.log"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step-000002", "step-000004"}
    samples = lines(folder / "samples.jsonl")
    assert len(samples) == 8
    for sample in samples:
        for column in ("divergence", "student_logprobs", "teacher_logprobs", "student_entropy", "teacher_entropy"):
            assert len(sample[column]) == len(sample["token_ids"])
        for place in sample["disagreements"]:
            assert place["student_top_logprob"] >= place["student_logprob"] - 1e-4
            assert place["teacher_top_logprob"] >= place["teacher_logprob"] - 1e-4
    for shown in ("step 4/4", "taught accuracy", str(folder)):
        assert shown in output


def test_a_running_job_is_seen_by_its_folder_and_by_its_ray_cluster(
    first_run: tuple[Path, str], watched: Future[Seen]
) -> None:
    folder, _ = first_run
    seen = watched.result()
    for look in (seen.look, seen.look_over_ray):
        status = look.view.status
        assert look.state is State.RUNNING and status is not None
        assert (look.view.name, look.view.folder, status.num_steps) == ("first", str(folder), 4)
        assert {worker.role for worker in status.workers if worker.serves and worker.node} == {
            "rollout",
            "teacher",
            "learner",
        }
        assert status.versions.keys() == {"rollout", "teacher", "learner"}
    ended = FolderSource(folder, "first").look()
    assert ended.state is State.FINISHED and ended.view.status is not None
    assert (ended.view.status.step, ended.view.status.ended) == (4, "finished")
    assert len(ended.view.steps) == 4 and "evaluation/taught_accuracy" in ended.view.evaluation


def test_the_stacks_of_driver_workers_and_engine_are_read_while_they_work(
    first_run: tuple[Path, str], watched: Future[Seen]
) -> None:
    seen = watched.result()
    assert not seen.missing
    assert {each.worker for each in seen.stacks} == {
        "driver",
        "rollout worker 0",
        "teacher worker 0",
        "learner worker 0",
    }
    assert all(each.threads for each in seen.stacks), [each.problem for each in seen.stacks]
    of_rollout = [each for each in seen.stacks if each.role == "rollout"]
    assert any("vllm/" in frame for each in of_rollout for thread in each.threads for frame in thread.frames)
    assert any(each.process_id != seen.actors["first/rollout-0"] for each in of_rollout), "its engine's process"
    driver = next(each for each in seen.stacks if each.role == "driver")
    assert any("sdft_ray/" in frame for thread in driver.threads for frame in thread.frames)


def test_actors_are_named_by_run_role_and_number_and_the_job_by_its_run(
    first_run: tuple[Path, str], watched: Future[Seen]
) -> None:
    folder, _ = first_run
    seen = watched.result()
    assert {"first/rollout-0", "first/teacher-0", "first/learner-0"} <= seen.actors.keys()
    (metadata,) = [found for found in seen.metadata if found.get("sdft_run") == "first"]
    assert (metadata["sdft_folder"], metadata["sdft_mode"]) == (str(folder), "train")
    assert metadata["sdft_method"] == "sdft"


def test_engines_and_export_are_held_against_the_student(first_run: tuple[Path, str]) -> None:
    folder, output = first_run
    engines = re.search(r"1 rollout engine with the student's weights: .* up to (\S+) nats", output)
    export = re.search(r"the exported folder computes the student's logits: (\S+) of their range", output)
    assert engines is not None and float(engines[1]) < 1e-4
    assert export is not None and float(export[1]) < 1e-5
    exported = {path.name for path in (folder / "model").iterdir()}
    assert {"README.md", "generation_config.json"} <= exported
    assert UNVERIFIED_FILE not in exported


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


def test_every_evaluation_says_what_context_adds_and_how_far_the_student_has_moved(
    first_run: tuple[Path, str],
) -> None:
    folder, output = first_run
    before, after = evaluations(folder)
    assert {"evaluation/context_gap_nats", *RETENTION} <= before.keys() & after.keys()
    assert [before[key] for key in RETENTION] == pytest.approx([0.0, 0.0], abs=1e-6), "the student is the base"
    assert all(after[key] > 1e-4 for key in RETENTION)
    assert len(lines(folder / "retention.jsonl")) == 4
    assert (folder / "alarms.jsonl").exists()
    assert "retention base student kl" in output and "context gap" in output


def test_the_same_run_submitted_as_a_ray_job_gives_the_same_metrics(
    first_run: tuple[Path, str], cluster: Any, folder: str, tmp_path: Path
) -> None:
    def submit() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sdft_ray.launch", "mode=submit", "target=ray", *SETTINGS, *EVALUATED]
        command += [f"target.address=http://{cluster.dashboard_url}", f"target.python={sys.executable}"]
        command += [f"model.path={folder}", f"runs_dir={tmp_path}", "name=again", "num_steps=4", "learner.zero_stage=3"]
        return subprocess.run(command, cwd=ROOT, env=users_environment(), capture_output=True, text=True, timeout=400)

    good = submit()
    assert good.returncode == 0, good.stdout + good.stderr
    assert "step 4/4" in good.stdout and "SUCCEEDED" in good.stdout
    for one, other in zip(step_lines(first_run[0]), step_lines(tmp_path / "again"), strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5)
    again = submit()
    assert again.returncode == 0, again.stdout
    assert "attached to again-" in again.stdout and "step 4/4" in again.stdout, "it is not done a second time"


def test_a_resumed_run_ends_where_the_whole_one_did(first_run: tuple[Path, str], launch: Callable[..., Any]) -> None:
    whole = step_lines(first_run[0])
    checkpoint = first_run[0] / "checkpoints" / "step-000002"
    resumed, output = launch("resumed", *EVALUATED, "num_steps=4", "learner.zero_stage=3", f"resume={checkpoint}")
    assert [line["step"] for line in step_lines(resumed)] == [3, 4]
    for one, other in zip(whole[2:], step_lines(resumed), strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5)
    assert "resumed" in output
    assert "1 rollout engine with the student's weights" in output
    assert (resumed / "retention.jsonl").read_text() == (first_run[0] / "retention.jsonl").read_text()
    (after,) = evaluations(resumed)
    for key in (*RETENTION, "evaluation/context_gap_nats"):
        assert after[key] == pytest.approx(evaluations(first_run[0])[-1][key], rel=1e-2, abs=1e-5)


def test_supervised_fine_tuning_from_a_notebook_is_the_same_loop_without_a_teacher(command: Callable[..., Any]) -> None:
    settings = ["method=sft", "num_steps=6", "learner.schedule=CONSTANT"]
    run, output = command("sft", *settings, program=["-c", NOTEBOOK])
    assert f"returned {run}, 6 steps" in output
    assert "loading the saved model again" in (run / "logs" / "driver.log").read_text()
    losses = [line["learner/loss"] for line in step_lines(run)]
    assert losses[-1] < losses[0]
    assert json.loads((run / "summary.json").read_text())["weight_version"] == {"learner": [6]}
    assert "teacher" not in output and "rollout" not in output, "roles nobody needs are not started"


ASYNCHRONOUS = ["num_steps=6", "max_staleness=2", "teacher.context=NONE", "loss.skip_first_tokens=0"]
STOPPED = ["checkpoint_every=3", "tracking.num_samples=4"]  # the whole batch


@pytest.fixture(scope="module")
def asynchronous(first_run: tuple[Path, str], launch: Callable[..., Any]) -> Path:
    run: Path = launch("async", f"model.path={first_run[0] / 'model'}", *ASYNCHRONOUS, *STOPPED)[0]
    return run


def test_an_asynchronous_run_from_the_export_stays_within_its_bound_and_begins_without_divergence(
    first_run: tuple[Path, str], asynchronous: Path
) -> None:
    """Without a demonstration teacher and student are the same network until the first step."""
    exported = first_run[0] / "model"
    steps = step_lines(asynchronous)
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


def test_an_asynchronous_run_that_goes_on_trains_each_example_once_and_ends_close_by(
    first_run: tuple[Path, str], asynchronous: Path, launch: Callable[..., Any]
) -> None:
    from_there = [f"model.path={first_run[0] / 'model'}", f"resume={asynchronous / 'checkpoints' / 'step-000003'}"]
    resumed, _ = launch("async-on", *ASYNCHRONOUS, *STOPPED, *from_there)
    trained, again = (
        [(line["step"], line["example_id"]) for line in lines(run / "samples.jsonl")] for run in (asynchronous, resumed)
    )
    assert len(again) == 3 * 4 and again == trained[3 * 4 :]
    weights, other = (load_file(run / "model" / "model.safetensors") for run in (asynchronous, resumed))
    gap = max(float((weights[name] - other[name]).abs().max()) for name in weights)
    # AdamW moves a weight by about the learning rate, 1e-3, a step; what is sampled behind the checkpoint is newer.
    assert gap <= 2 * 1e-3 * 3


def test_a_finished_run_goes_on_from_its_end_and_everything_it_wrote_is_kept(launch: Callable[..., Any]) -> None:
    """With the default checkpoint_every, which is more steps than it takes."""
    folder, _ = launch("more", "method=sft", "num_steps=2")
    before = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert (folder / "checkpoints" / "step-000002").is_dir()
    _, output = launch("more", "method=sft", "num_steps=3", "resume=auto")
    assert "resumed with   num_steps=3 (was 2)" in output
    assert [line["step"] for line in step_lines(folder)] == [1, 2, 3]
    assert json.loads((folder / "summary.json").read_text())["num_steps"] == 3
    now = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    moved = {content for name, content in now.items() if "earlier/" in name}
    lost = [name for name, content in before.items() if not now.get(name, b"").startswith(content)]
    assert {name for name in lost if before[name] not in moved} <= {".lock"}
    assert "earlier/summary.1.json" in now and "earlier/model.1/config.json" in now


def test_the_run_folder_keeps_what_was_said_on_the_terminal(first_run: tuple[Path, str]) -> None:
    folder, output = first_run
    log = (folder / "logs" / "driver.log").read_text()
    said = [line for line in output.splitlines() if line.strip()]
    assert "step 4/4" in log and "evaluating after step 4 ..." in log
    missing = [line for line in said if line.strip() not in log and not line.startswith(" ")]
    assert missing == []


def test_a_name_that_is_taken_is_refused_and_nothing_lost(
    first_run: tuple[Path, str], launch: Callable[..., Any]
) -> None:
    before = (first_run[0] / "metrics.jsonl").read_text()
    _, output = launch("first", "num_steps=1", fails=True)
    assert "error: name=first: the run folder" in output
    assert "resume=auto" in output
    assert (first_run[0] / "metrics.jsonl").read_text() == before


def test_a_wrong_model_path_and_a_bad_row_are_refused_before_anything_starts(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    _, output = launch("nowhere", f"model.path={tmp_path}", fails=True)
    assert "the folder has no config.json" in output
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Who?", "demonstration": "She."}\n{"prompt": "Who?"}\n')
    _, output = launch("bad-row", f"data.source={rows}", fails=True)
    assert f"{rows}, line 2" in output and "demonstration" in output


def test_sets_are_scored_each_in_its_way_and_a_run_goes_on_where_its_judge_is_out_of_reach(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    folder, output = launch(
        "judged", "method=sft", "num_steps=1", "checkpoint_every=0", *EVALUATED,
        "+evaluation.sets.tools.source='builtin:tools:test[:3]'", "+evaluation.sets.tools.match=TOOL_CALL",
        "+evaluation.sets.tools.num_samples=4", "+evaluation.sets.tools.pass_at=[1,4]",
        "+evaluation.sets.open.source='builtin:facts:taught[:2]'", "+evaluation.sets.open.match=JUDGE",
        "evaluation.judge.endpoint=http://127.0.0.1:9/v1", "evaluation.judge.model=nobody",
        "evaluation.judge.max_retries=1", f"evaluation.judge.cache_dir={tmp_path}",
    )  # fmt: skip
    after = lines(folder / "metrics.jsonl")[-1]
    assert {"evaluation/taught_accuracy", "evaluation/tools_accuracy", "evaluation/tools_pass_at_4"} <= after.keys()
    assert (after["evaluation/open_unscored"], after["evaluation/judge_retries"]) == (2, 2)
    assert "evaluation/open_accuracy" not in after
    rights = {line["example_id"]: line["right"] for line in lines(folder / "answers.jsonl") if line["set"] == "open"}
    assert list(rights.values()) == [None, None]
    assert "open unscored" in output
