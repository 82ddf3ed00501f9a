"""Run folders: whose they are, what the next command may do to them, and what stays of a refused start."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.cluster.job import Job
from sdft_ray.cluster.run_folder import PREFLIGHT_FILE, RunFolder, open_run_folder
from sdft_ray.config import RunConfig
from sdft_ray.errors import CheckpointError, ClusterError, ConfigError, ModelError, WorkerError
from sdft_ray.learner.checkpoint import complete, partial_folder
from sdft_ray.learner.manifest import write_file
from sdft_ray.tracking.console import ConsoleSink
from sdft_ray.tracking.earlier import move_to_earlier
from sdft_ray.tracking.jsonl import ANSWERS_FILE, JsonLines
from sdft_ray.tracking.summary import write_summary
from tests.fakes import FakeEvaluator, FakeLearner, FakeTracker
from tests.full_disk import no_file_beyond
from tests.test_conf import compose_with

ROOT = Path(__file__).parents[2]


def config(runs: Path, **settings: str) -> RunConfig:
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return compose_with("+cluster=local", f"runs_dir={runs}", *overrides)


def opened(runs: Path, **settings: str) -> RunFolder:
    """The folder as one command leaves it that opens it and ends."""
    with open_run_folder(config(runs, **settings)) as folder:
        return folder


def finish(runs: Path, *checkpoints: int, name: str = "a") -> Path:
    """A run folder as a finished run of four steps leaves it."""
    with open_run_folder(config(runs, name=name)) as folder:
        folder.begin({"num_steps": 4})
        lines = JsonLines(folder.path, str)
        for step in range(5):
            lines.log_step(step, float(step), {"learner/loss": 1.0 / (step + 1)}, ())
        lines.close()
        for version in checkpoints:
            save(folder, version)
        folder.model.mkdir()
        (folder.model / "config.json").write_text("{}")
        write_summary(folder.path, {"num_steps": 4})
        (folder.logs / "driver.log").write_text("what was said\n")
    return folder.path


def save(folder: RunFolder, version: int) -> None:
    scratch = partial_folder(folder.checkpoints, version)
    file = write_file(scratch / "rank-0.safetensors", [f"weights {version}".encode()])
    complete(scratch, {"weight_version": version, "data": {}, "layout": {}, "model": {}}, [file])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def go_on(folder: RunFolder) -> None:
    """What a run does to its folder, from its start to its end."""
    folder.begin({"num_steps": 6})
    lines = JsonLines(folder.path, str, folder.resumed_step)
    for step in range((folder.resumed_step or 0) + 1, 7):
        lines.log_step(step, 9.0, {"learner/loss": 9.0}, ())
    lines.close()
    save(folder, 6)
    move_to_earlier(folder.model)
    folder.model.mkdir()
    (folder.model / "config.json").write_text('{"other": 1}')
    write_summary(folder.path, {"num_steps": 6})


def is_kept(name: str, content: bytes, now: dict[str, bytes]) -> bool:
    """True when a file begins as it was, or lies in `earlier/`, or the lines that it has lost lie there."""
    if name.endswith(".lock") or now.get(name, b"").startswith(content):
        return True
    earlier = [kept for other, kept in now.items() if "/earlier/" in other]
    staying = now.get(name, b"").splitlines(keepends=True)
    taken_back = b"".join(line for line in content.splitlines(keepends=True) if line not in staying)
    return content in earlier or taken_back in earlier


NEXT = {
    "the same name again": ({}, ConfigError),
    "mode=evaluate under the same name": ({"mode": "evaluate"}, ConfigError),
    "mode=check_teacher under the same name": ({"mode": "check_teacher"}, ConfigError),
    "resume=auto": ({"resume": "auto"}, None),
    "resume from an earlier checkpoint of its own": ({"resume": "OWN"}, None),
    "resume from another run's checkpoint": ({"resume": "OTHER"}, ConfigError),
    "resume from nowhere": ({"resume": "/nowhere/step-000001"}, CheckpointError),
}


@pytest.mark.parametrize("command", NEXT)
def test_nothing_that_a_finished_run_has_written_is_lost_to_the_next_command(tmp_path: Path, command: str) -> None:
    settings, refusal = NEXT[command]
    path, other = finish(tmp_path, 2, 4), finish(tmp_path, 2, 4, name="b")
    places = {"OWN": path / "checkpoints/step-000002", "OTHER": other / "checkpoints/step-000002"}
    settings = {key: str(places.get(value, value)) for key, value in settings.items()}
    before = contents(tmp_path)
    if refusal is not None:
        with pytest.raises(refusal):
            open_run_folder(config(tmp_path, name="a", **settings))
        assert contents(tmp_path) == before
    else:
        with open_run_folder(config(tmp_path, name="a", **settings)) as folder:
            go_on(folder)
        now = contents(tmp_path)
        assert [name for name, content in before.items() if not is_kept(name, content, now)] == []
        assert {name for name in before if name.startswith("b/")} <= now.keys()


class RefusingLearner:
    """Ranks that have started, and find that the checkpoint is not theirs."""

    weight_version = 0

    async def resume(self, folder: Path) -> None:
        raise CheckpointError(f"resume={folder}: saved with another layout")


class Started:
    """What of the roles a run asks before its folder is its own."""

    rollouts = None
    learner = RefusingLearner()

    async def notes(self) -> list[str]:
        return []

    async def record_completions(self, stages: Any, phase: Any, say: Any) -> None:
        """Samples nothing."""


class StartedJob(Job):
    """A job whose workers have started."""

    def __init__(self, folder: RunFolder, cfg: RunConfig):
        self.folder, self._cfg, self._settings = folder, cfg, {"num_steps": 6}
        self._stages: Any = ()
        self.console = ConsoleSink(6)


def test_a_checkpoint_that_the_learner_refuses_leaves_a_finished_run_as_it_was(tmp_path: Path) -> None:
    path = finish(tmp_path, 2, 4)
    (path / ANSWERS_FILE).write_text('{"step": 0}\n{"step": 4}\n')
    before = contents(path)
    cfg = config(tmp_path, name="a", resume=str(path / "checkpoints/step-000002"))
    with pytest.raises(CheckpointError, match="another layout"), open_run_folder(cfg) as folder:
        asyncio.run(StartedJob(folder, cfg)._run(Started()))
    assert {name: held for name, held in contents(path).items() if name != ".lock"} == {
        name: held for name, held in before.items() if name != ".lock"
    }


def test_answers_of_steps_that_are_taken_again_move_to_earlier(tmp_path: Path) -> None:
    path = finish(tmp_path, 2, 4)
    (path / ANSWERS_FILE).write_text('{"step": 0}\n{"step": 4}\n')
    with open_run_folder(config(tmp_path, name="a", resume=str(path / "checkpoints/step-000002"))) as folder:
        folder.begin({"num_steps": 6})
    assert (path / ANSWERS_FILE).read_text() == '{"step": 0}\n'
    assert (path / "earlier/answers.1.jsonl").read_text() == '{"step": 4}\n'
    assert not (path / "checkpoints/step-000004").exists()
    assert (path / "checkpoints/earlier").is_dir()


@pytest.mark.parametrize("error", [ClusterError("no room"), ExceptionGroup("tasks", [ClusterError("no room")])])
def test_a_refused_start_takes_no_name_also_where_a_group_of_tasks_has_raised_it(
    tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(type(error)), open_run_folder(config(tmp_path, name="new")) as folder:
        (folder.path / ANSWERS_FILE).touch()
        raise error
    assert not folder.path.exists()


@pytest.mark.parametrize("line", ["7", '{"loss": 1}', '{"step": "four"}'])
def test_a_line_without_a_step_is_refused_with_its_place(tmp_path: Path, line: str) -> None:
    path = finish(tmp_path, 2)
    (path / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(CheckpointError, match="metrics.jsonl, line 1 is no JSON object with a whole number `step`"):
        go_on(open_run_folder(config(tmp_path, name="a", resume="auto")))


def test_a_finished_run_without_a_checkpoint_is_not_begun_again(tmp_path: Path) -> None:
    path = finish(tmp_path)
    before = contents(path)
    with pytest.raises(
        ConfigError, match=r"resume=auto: there is no checkpoint .*a, which holds results .*another name"
    ):
        open_run_folder(config(tmp_path, name="a", resume="auto"))
    assert contents(path) == before


def test_an_unfinished_run_without_a_checkpoint_begins_again_and_keeps_its_lines(tmp_path: Path) -> None:
    with open_run_folder(config(tmp_path, name="a")) as folder:
        folder.begin({"num_steps": 4})
        lines = JsonLines(folder.path, str)
        lines.log_step(1, 1.0, {"learner/loss": 1.0}, ())
        lines.close()
    before = contents(folder.path)
    with pytest.raises(ConfigError, match="name=a: the run folder .* exists, and resume=never; choose another name"):
        open_run_folder(config(tmp_path, name="a"))
    with open_run_folder(config(tmp_path, name="a", resume="auto")) as again:
        assert again.begins_again and again.resumed is None
        go_on(again)
    now = contents(folder.path)
    assert now["earlier/metrics.1.jsonl"] == before["metrics.jsonl"]
    assert now["earlier/config.1.yaml"] == before["config.yaml"]


def test_a_nameless_run_is_named_after_method_and_time(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    assert folder.path.parent == tmp_path
    assert folder.path.name.startswith("sdft-20")
    assert folder.resumed is None and folder.resumed_step is None and not folder.begins_again
    assert folder.logs.is_dir()


def test_an_evaluation_is_named_after_its_mode(tmp_path: Path) -> None:
    assert opened(tmp_path, mode="evaluate").path.name.startswith("evaluate-20")


def test_auto_takes_the_newest_complete_checkpoint(tmp_path: Path) -> None:
    with open_run_folder(config(tmp_path, name="a", resume="auto")) as first:
        assert first.resumed is None, "there is nothing to resume yet"
        for version in (10, 20):
            save(first, version)
        partial_folder(first.checkpoints, 30)
    again = opened(tmp_path, name="a", resume="auto")
    assert again.resumed == first.checkpoints / "step-000020"
    assert again.resumed_step == 20


def test_a_folder_without_room_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = finish(tmp_path, 2)
    before = contents(path)
    with (
        open_run_folder(config(tmp_path, name="a", resume="auto")) as folder,
        no_file_beyond(5),
        pytest.raises(ConfigError, match=r"runs_dir=.*/a cannot be written \(File too large\); make room there"),
    ):
        folder.begin({"num_steps": 6})
    assert {name: content for name, content in contents(path).items() if name in before} == before | {
        ".lock": contents(path)[".lock"]
    }


def test_a_new_folder_without_room_takes_no_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), open_run_folder(config(tmp_path, name="new")) as folder, no_file_beyond(5):
        folder.begin({"num_steps": 6})
    assert not folder.path.exists()


def tear(checkpoint: Path) -> None:
    os.truncate(checkpoint / "rank-0.safetensors", 3)


def test_auto_passes_over_damaged_checkpoints_and_moves_them_out_of_the_way_once_it_has_begun(tmp_path: Path) -> None:
    path = finish(tmp_path, 2, 4)
    tear(path / "checkpoints/step-000004")
    with open_run_folder(config(tmp_path, name="a", resume="auto")) as folder:
        assert folder.resumed == path / "checkpoints/step-000002"
        assert folder.damages == (f"{path}/checkpoints/step-000004/rank-0.safetensors has 3 bytes of 9",)
        assert (path / "checkpoints/step-000004").exists()
        go_on(folder)
    assert (path / "checkpoints/earlier/step-000004.1/rank-0.safetensors").read_bytes() == b"wei"


def test_damaged_checkpoints_alone_are_refused_by_name_and_nothing_is_touched(tmp_path: Path) -> None:
    path = finish(tmp_path, 2, 4)
    for version in (2, 4):
        tear(path / f"checkpoints/step-{version:06}")
    before = contents(path)
    with pytest.raises(CheckpointError, match=r"none of the checkpoints .* is sound: .*step-000004/rank.*step-000002/"):
        open_run_folder(config(tmp_path, name="a", resume="auto"))
    assert contents(path) == before
    assert opened(tmp_path, name="b").path.exists(), "another name begins"


def test_a_named_checkpoint_that_is_damaged_is_refused_and_takes_no_name(tmp_path: Path) -> None:
    path = finish(tmp_path, 2, 4)
    tear(path / "checkpoints/step-000004")
    for name in ("a", "new"):
        before = contents(tmp_path)
        with pytest.raises(CheckpointError, match="resume=.*step-000002 is the newest sound one beside it"):
            open_run_folder(config(tmp_path, name=name, resume=str(path / "checkpoints/step-000004")))
        assert {name: content for name, content in contents(tmp_path).items() if content} == {
            name: content for name, content in before.items() if content
        }
    assert not (tmp_path / "new").exists()


def test_the_resumed_step_is_known_also_once_its_checkpoint_is_gone(tmp_path: Path) -> None:
    path = finish(tmp_path, 2)
    with open_run_folder(config(tmp_path, name="a", resume="auto")) as folder:
        folder.begin({"num_steps": 6})
        shutil.rmtree(path / "checkpoints/step-000002")
        assert folder.resumed_step == 2
        assert folder.evaluated() == set()


class Evaluated(Started):
    """Roles of a run that stands behind its second step."""

    def __init__(self) -> None:
        self.evaluator = FakeEvaluator()
        self.learner = FakeLearner(version=2)


@pytest.mark.parametrize("is_logged", [True, False])
def test_resumed_weights_are_evaluated_once_also_at_the_end_of_a_stage(tmp_path: Path, is_logged: bool) -> None:
    path = finish(tmp_path, 2)
    if is_logged:
        with (path / "metrics.jsonl").open("a") as metrics:
            metrics.write('{"step": 2, "time_s": 2.0, "evaluation/taught_accuracy": 1.0}\n')
    roles, tracker, cfg = Evaluated(), FakeTracker(), config(tmp_path, name="a", resume="auto")
    with open_run_folder(cfg) as folder:
        asyncio.run(StartedJob(folder, cfg)._evaluate(roles, tracker))
    assert roles.evaluator.versions == ([] if is_logged else [2])
    assert len(tracker.evaluations) == (0 if is_logged else 1)


@pytest.mark.parametrize("is_logged", [True, False])
def test_answers_of_an_evaluation_that_a_kill_has_cut_short_are_taken_back(tmp_path: Path, is_logged: bool) -> None:
    path = finish(tmp_path, 2)
    (path / ANSWERS_FILE).write_text('{"step": 0}\n{"step": 2}\n')
    if is_logged:
        with (path / "metrics.jsonl").open("a") as metrics:
            metrics.write('{"step": 2, "time_s": 2.0, "evaluation/taught_accuracy": 1.0}\n')
    with open_run_folder(config(tmp_path, name="a", resume="auto")) as folder:
        folder.begin({"num_steps": 6})
        assert bool(folder.evaluated()) == is_logged
    assert (path / ANSWERS_FILE).read_text() == '{"step": 0}\n' + '{"step": 2}\n' * is_logged


def test_auto_without_a_name_and_a_path_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resume=auto: says to go on, but not with which run"):
        open_run_folder(config(tmp_path, resume="auto"))
    with pytest.raises(CheckpointError, match="no such folder"):
        open_run_folder(config(tmp_path, name="b", resume=str(tmp_path / "gone")))
    assert not (tmp_path / "b").exists()


def test_a_refused_start_leaves_no_folder_and_takes_no_name(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ClusterError), open_run_folder(config(tmp_path, name="a")) as folder:
            (folder.logs / "driver.log").write_text("started\n")
            raise ClusterError("no GPUs")
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_removed_in_mid_run_hides_no_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="save 3 in a row"), open_run_folder(config(tmp_path, name="a")) as folder:
        shutil.rmtree(folder.path)
        raise CheckpointError("That was save 3 in a row")


def test_a_start_that_fails_in_a_worker_keeps_its_logs_but_does_not_take_the_name(tmp_path: Path) -> None:
    with pytest.raises(WorkerError), open_run_folder(config(tmp_path, name="a")) as folder:
        (folder.logs / "rollout-0.log").write_text("why\n")
        raise WorkerError("rollout worker 0 failed; its log says why")
    assert (opened(tmp_path, name="a").logs / "rollout-0.log").read_text() == "why\n"


@pytest.mark.parametrize("several", [False, True])
def test_a_start_that_a_worker_refuses_with_the_whole_reason_leaves_no_folder(tmp_path: Path, several: bool) -> None:
    error = ModelError("model.path=mine: no such network; take another model")
    refusal = ExceptionGroup("tasks", [error]) if several else error
    with pytest.raises(type(refusal)), open_run_folder(config(tmp_path, name="a")) as folder:
        (folder.logs / "learner-0.log").write_text("loading\n")
        raise refusal
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_beside_a_failure_keeps_the_logs(tmp_path: Path) -> None:
    errors = [ModelError("take another model"), WorkerError("teacher worker 0 failed")]
    with pytest.raises(ExceptionGroup), open_run_folder(config(tmp_path, name="a")) as folder:
        (folder.logs / "teacher-0.log").write_text("why\n")
        raise ExceptionGroup("tasks", errors)
    assert (folder.logs / "teacher-0.log").read_text() == "why\n"


def test_what_is_no_log_is_never_taken_away(tmp_path: Path) -> None:
    with pytest.raises(ModelError), open_run_folder(config(tmp_path, name="a")) as folder:
        (folder.path / "completions.jsonl").write_text("sampled\n")
        raise ModelError("take another model")
    assert (folder.path / "completions.jsonl").read_text() == "sampled\n"


def test_a_refused_start_changes_nothing_of_a_folder_that_was_there(tmp_path: Path) -> None:
    path = finish(tmp_path, 4)
    before = contents(path)
    with pytest.raises(ClusterError), open_run_folder(config(tmp_path, name="a", resume="auto")):
        raise ClusterError("no GPUs")
    assert {name: content for name, content in contents(path).items() if name != ".lock"} == {
        name: content for name, content in before.items() if name != ".lock"
    }


def test_a_folder_of_the_users_own_is_no_free_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("...")
    with pytest.raises(ConfigError, match="name=a: the run folder"):
        open_run_folder(config(tmp_path, name="a"))
    assert contents(tmp_path / "a") == {"thesis.tex": b"..."}


@pytest.mark.parametrize("settings", [{"resume": "auto"}, {}], ids=["resume=auto", "resume=never"])
def test_a_run_that_is_alive_is_not_joined_and_one_that_was_killed_is(tmp_path: Path, settings: dict[str, str]) -> None:
    code = f"""
import time
from sdft_ray.cluster.job import Job
from sdft_ray.cluster.run_folder import open_run_folder
from tests.cluster.test_run_folder import config
from pathlib import Path
folder = open_run_folder(config(Path({str(tmp_path)!r}), name="a"))
print("open", flush=True)
time.sleep(100)
"""
    alive = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    try:
        assert alive.stdout is not None and alive.stdout.readline() == b"open\n"
        with pytest.raises(ConfigError, match=f"name=a: process {alive.pid} on .* is writing to the run folder"):
            open_run_folder(config(tmp_path, name="a", **settings))
    finally:
        alive.send_signal(signal.SIGKILL)
        alive.wait()
    assert opened(tmp_path, name="a", **settings).path == tmp_path / "a"


@pytest.mark.parametrize(("runs_dir", "name"), [("file", "a"), (".", "file"), ("/proc/none", "a")])
def test_a_run_folder_that_cannot_be_made_is_refused_by_its_settings(tmp_path: Path, runs_dir: str, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"runs_dir=.*: .*/logs cannot be made \(.*\); set runs_dir and name so that"):
        opened(tmp_path / runs_dir, name=name)


def test_runs_without_a_folder_are_refused() -> None:
    with pytest.raises(ConfigError, match="runs_dir=: names no folder"):
        RunConfig(runs_dir="")


def test_a_preflight_may_be_repeated_under_one_name_and_keeps_what_it_found(tmp_path: Path) -> None:
    with open_run_folder(config(tmp_path, name="a-preflight")) as folder:
        (folder.logs / "rollout-0.log").write_text("started\n")
        (folder.path / PREFLIGHT_FILE).write_text("{}")
    with open_run_folder(config(tmp_path, name="a-preflight")) as folder:
        move_to_earlier(folder.path / PREFLIGHT_FILE)
    assert (folder.path / "earlier" / "preflight.1.json").exists()
