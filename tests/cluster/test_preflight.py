"""What is looked at before workers start: one line each, and a refusal of what would go wrong."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ray.exceptions import RayTaskError

from sdft_ray.cluster import preflight
from sdft_ray.cluster.preflight import (
    Line,
    NodeFacts,
    check_nodes,
    check_storage,
    checkpoint_bytes,
    facts_of_this_node,
    look,
    refuse_failed,
    source_hash,
)
from sdft_ray.cluster.preflight_job import publication_line
from sdft_ray.cluster.run_folder import LOCK_FILE
from sdft_ray.cluster.stages import Stages
from sdft_ray.config import ClusterConfig, ModelConfig, RunConfig
from sdft_ray.errors import ClusterError, PreflightError
from sdft_ray.launch.composing import compose_config
from tests.cluster.command import SETTINGS
from tests.full_disk import no_file_beyond
from tests.tiny import make_tiny_model

HERE = NodeFacts(
    node="10.0.0.1", versions={"torch": "2.13.0", "deepspeed": "0.19.8"}, models=("abc",), sees_run_folder=True
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def problems(*facts: NodeFacts, trains: bool = True) -> dict[str, str]:
    return {line.what: line.problem for line in check_nodes(facts, trains=trains) if line.problem}


def test_equal_nodes_have_no_problem() -> None:
    assert problems(HERE, replace(HERE, node="10.0.0.2")) == {}


def test_a_node_with_another_package_is_named_with_both_versions() -> None:
    other = replace(HERE, node="10.0.0.2", versions={"torch": "2.12.0", "deepspeed": "0.19.8", "vllm": "0.32.0"})
    assert problems(HERE, HERE, other) == {
        "versions": "torch is 2.13.0 on 10.0.0.1, 2.12.0 on 10.0.0.2, vllm is none on 10.0.0.1, 0.32.0 on 10.0.0.2"
    }


@pytest.mark.parametrize(
    ("version", "is_fine"), [("0.19.7", False), ("0.19.8+cpu", True), ("0.20.0", True), ("", False)]
)
def test_a_deepspeed_that_loses_gradients_is_refused_where_a_learner_starts(version: str, is_fine: bool) -> None:
    facts = replace(HERE, versions={"deepspeed": version})
    assert ("deepspeed" not in problems(facts)) is is_fine
    assert "deepspeed" not in problems(facts, trains=False)


def test_nodes_with_another_model_or_without_the_run_folder_are_named() -> None:
    found = problems(HERE, replace(HERE, node="b", models=("",)), replace(HERE, node="c", sees_run_folder=False))
    assert found == {"model folders": "are others, or not there, on b", "run folder": "is not seen by c"}


def test_the_facts_of_a_node_are_of_its_own_files(model: str, tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).touch()
    facts = facts_of_this_node("here", [model, str(tmp_path / "none")], str(tmp_path))
    assert facts.sees_run_folder and len(facts.models[0]) == 32 and facts.models[1] == ""
    assert facts.versions["sdft_ray source"] == source_hash() and "torch" in facts.versions


def test_a_disk_that_the_checkpoints_would_fill_is_refused_with_the_numbers(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = RunConfig(cluster=ClusterConfig(), model=ModelConfig(path=model), keep_checkpoints=3)
    assert not any(line.problem for line in check_storage(cfg, model, tmp_path))
    assert not list(tmp_path.iterdir())
    free = 4 * checkpoint_bytes(cfg, model)  # three that are kept, the one that is written; the model finds no room
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(
        PreflightError, match="storage: .* GiB free, .* planned for 4 more checkpoints and the model: the run"
    ):
        refuse_failed(list(check_storage(cfg, model, tmp_path)))
    assert not any(line.problem for line in check_storage(replace(cfg, checkpoint_every=0), model, tmp_path))
    (tmp_path / "checkpoints" / "step-000005").mkdir(parents=True)  # of a run that goes on, which has its place
    assert not any(line.problem for line in check_storage(cfg, model, tmp_path))


def test_slow_storage_is_said_and_refuses_nothing(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = RunConfig(cluster=ClusterConfig(), model=ModelConfig(path=model))
    monkeypatch.setattr(preflight, "write_rate", lambda _: 100.0)
    lines = list(check_storage(cfg, model, tmp_path))
    assert "write speed    warning" in str(lines[1])
    refuse_failed(lines)


def test_every_failed_line_is_in_the_refusal_with_its_remedy() -> None:
    lines = [Line(what=name, value="1", problem=f"{name} is bad", remedy=f"mend {name}") for name in "ab"]
    with pytest.raises(PreflightError, match="a: 1: a is bad; mend a; b: 1: b is bad; mend b"):
        refuse_failed([*lines, Line(what="c", value="2")])
    assert str(lines[0]) == "a              FAILED   1: a is bad; mend a"
    assert str(Line(what="c", value="2")) == "c              ok       2"


@pytest.mark.parametrize("method", ["sdft", "sft"])
def test_a_whole_start_is_looked_at_without_a_problem(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(
        preflight, "facts_of_all_nodes", lambda folders, run_dir: [replace(HERE, models=tuple(folders))]
    )
    settings = [*SETTINGS, f"method={method}", f"model.path={model}", f"runs_dir={tmp_path}"]
    cfg = compose_config(*settings)
    stages = Stages([("", cfg)])
    lines = look(stages, tmp_path)
    assert [line.what for line in lines] == [
        "versions",
        "deepspeed",
        "model folders",
        "run folder",
        "storage",
        "write speed",
        "memory",
        "longest",
        "vocabulary",
    ]
    assert not [line for line in lines if line.problem and line.is_fatal]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**20))
    (memory,) = (line for line in look(stages, tmp_path) if line.what == "memory")
    assert memory.problem == "may not be enough" and not memory.is_fatal


def test_every_stage_is_looked_at_by_its_own_lengths(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        preflight, "facts_of_all_nodes", lambda folders, run_dir: [replace(HERE, models=tuple(folders))]
    )
    settings = [*SETTINGS, f"model.path={model}", f"runs_dir={tmp_path}"]
    configs = [compose_config(*settings, f"rollout.max_new_tokens={tokens}") for tokens in (12, 150)]
    lines = look(Stages([("short", configs[0]), ("long", configs[1])]), tmp_path)
    lengths = [line.value.split(" tokens for the student")[0] for line in lines if line.what == "longest"]
    (short, _, first), (long, _, second) = (length.rpartition(": ") for length in lengths)
    assert (short, long) == ("stage short", "stage long") and int(second) > int(first)
    assert [line.value.split(":")[0] for line in lines if line.what == "memory"] == [short, long]


def test_a_worker_that_reads_other_weights_than_were_published_is_named() -> None:
    read = {"learner worker 0": "a" * 32, "rollout worker 0": "a" * 32, "rollout worker 1": "b" * 32}
    assert publication_line("student", read).problem == "rollout worker 1 read other weights"
    line = publication_line("student", read | {"rollout worker 1": "a" * 32})
    assert str(line).endswith("student weights, checksum aaaaaaaaaaaa, of learner worker 0, read by 2 more")


def test_a_preflight_starts_the_workers_of_all_stages_and_has_them_read_one_publication(
    launch: Callable[..., Any], runs: Path
) -> None:
    stages = "stages=['jsonl', 'jsonl rollout.max_new_tokens=24']"
    _, output = launch("looked-at", stages, "mode=preflight", "num_steps=2")
    lines = json.loads((runs / "looked-at-preflight" / "preflight.json").read_text())["lines"]
    published = [line["value"] for line in lines if line["what"] == "publication"]
    assert [value.split(" weights")[0] for value in published] == ["student", "ema"]
    assert all(value.endswith("of learner worker 0, read by 1 more") for value in published)
    assert not any(line["problem"] for line in lines if line["is_fatal"]), output
    (divergence,) = (line for line in lines if line["what"] == "divergence")
    assert divergence["is_looked_at"] and "tokens: at most" in divergence["value"]
    assert f"divergence     ok       {divergence['value']}" in output
    assert not (runs / "looked-at").exists(), "the run's name stays free"


class SilentNode:
    """A cluster of two nodes, one of which fails."""

    def __init__(self, error: Exception):
        self.error = error

    def nodes(self) -> list[dict[str, str]]:
        return [{"NodeID": "ab" * 28, "NodeManagerAddress": f"10.0.0.{number}"} for number in (1, 2)]

    def get(self, answers: object, timeout: float) -> list[NodeFacts]:
        raise self.error


def test_a_node_that_cannot_import_this_package_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = SilentNode(RayTaskError("facts", "Traceback", ModuleNotFoundError("No module named 'sdft_ray'")))
    remote = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: object()))
    monkeypatch.setattr(preflight, "alive_nodes", cluster.nodes)
    monkeypatch.setattr(preflight.ray, "remote", lambda _: remote)
    monkeypatch.setattr(preflight.ray, "wait", lambda answers, **_: (answers, []))
    monkeypatch.setattr(preflight.ray, "get", cluster.get)
    with pytest.raises(ClusterError, match=r"install this package on every node of 10\.0\.0\.1, 10\.0\.0\.2"):
        preflight.facts_of_all_nodes(["model"], "run")


def test_a_run_folder_that_takes_no_bytes_is_refused_with_the_reason(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = RunConfig(cluster=ClusterConfig(), model=ModelConfig(path=model))
    with no_file_beyond(1000):
        *_, line = check_storage(cfg, model, tmp_path)
    assert line.what == "run folder" and "cannot be written to (File too large)" in line.problem
    with pytest.raises(PreflightError):
        refuse_failed([line])
    assert not list(tmp_path.iterdir()), "what it has tried with is gone"
