"""What README and docs tell a reader to type works as it stands."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import sdft_ray
from sdft_ray.api import RunResult
from sdft_ray.cluster.stages import Stages
from sdft_ray.config import Mode, ReportConfig, RunConfig, TargetConfig
from sdft_ray.launch import Stage, command, compose_config, main
from sdft_ray.outcome import Outcome
from sdft_ray.planning.plan import make_plan
from tests.documented import BLOCK, PAGES, ROOT, commands, commands_of, overrides_of, write_named_files
from tests.tiny import make_tiny_model

GIVEN = [overrides for page in PAGES for words in commands(page) if (overrides := overrides_of(words)) is not None]
LAUNCHED = [overrides for number, overrides in enumerate(GIVEN) if overrides not in GIVEN[:number]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the command would do, and does not."""
    done: list[Any] = []

    def run(stages: list[Stage], outcome: Outcome) -> Path:
        done.append(stages)
        return tmp_path

    def show(*of: Any) -> None:
        done.append(of)

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(command, "SHOWING", dict.fromkeys(command.SHOWING, show))
    monkeypatch.setattr(command, "submit_job", lambda runs: show(runs) or 0)
    monkeypatch.setattr(command, "OF_JOBS", dict.fromkeys(command.OF_JOBS, lambda *of: show(*of) or 0))
    monkeypatch.setattr(command, "show_report", show)
    monkeypatch.setattr(command, "show_help", show)
    monkeypatch.setattr(command, "show_seeds", lambda folders: None)
    monkeypatch.chdir(tmp_path)
    return done


def test_the_documentation_has_commands() -> None:
    assert len(LAUNCHED) >= 9


@pytest.mark.parametrize("overrides", LAUNCHED, ids=" ".join)
def test_every_documented_command_passes_all_checks_that_need_no_process(
    overrides: list[str], started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_named_files(overrides, tmp_path)
    monkeypatch.setattr(sys, "argv", ["launch", *overrides])
    main()
    assert started
    for stages in started:
        if isinstance(stages[-1], ReportConfig | TargetConfig | list | Console):
            continue
        if stages[0][1].mode is Mode.train and is_here(stages[0][1].data.source):
            tiny = make_tiny_model(tmp_path / "tiny", context=4096)
            assert Stages([(name, with_model(cfg, tiny)) for name, cfg in stages]).num_steps > 0


def is_here(source: str) -> bool:
    return source.startswith("builtin:") or Path(source).exists()


def with_model(cfg: RunConfig, path: str) -> RunConfig:
    return replace(cfg, model=replace(cfg.model, path=path))


PYTHON = {
    f"{page.stem}:{number}": code
    for page in PAGES
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
}


@pytest.mark.parametrize("place", PYTHON)
def test_every_documented_python_runs_as_it_stands(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunConfig] = []

    def answer(cfg: RunConfig) -> RunResult:
        asked.append(cfg)
        return RunResult(Path("runs/mine"), {"verdict": {"usable": "YES"}})

    monkeypatch.setattr(sdft_ray, "train", answer, raising=False)
    monkeypatch.setattr(sdft_ray, "check_teacher", answer, raising=False)
    exec(PYTHON[place], {})
    assert [cfg.data.source for cfg in asked] == ["my_train.jsonl"] * 2


GPU_ROW = re.compile(
    r"^\| (qwen2\.5-\S+) \| (\S+) \| (.*?) ?\| (\S+), (\S+), (\S+) \| (\S+) s \| (\d+) min \|$", re.MULTILINE
)
EPOCH_STEPS = 126


def test_the_table_of_gpus_is_what_the_planner_predicts() -> None:
    text = (ROOT / "docs" / "clusters.md").read_text()
    (shared,) = re.findall(r"printed these, with `([^`]+)`", text)
    rows = GPU_ROW.findall(text)
    assert len(rows) == text.count("\n| qwen2.5")
    for model, cluster, own, *predicted in rows:
        cfg = compose_config(
            "mode=plan", f"plan.model={model}", f"+cluster={cluster}", *shared.split(), *re.findall(r"`(\S+)`", own)
        )
        plan = make_plan(cfg, cfg.needed_roles()).as_dict()
        assert plan["fits"], model
        gib = [f"{plan['memory_gib'][role]['total']:.1f}" for role in ("rollout", "teacher", "learner")]
        step_s = plan["seconds"]["step"]
        assert [*gib, f"{step_s:.1f}", f"{EPOCH_STEPS * step_s / 60:.0f}"] == predicted, model


# Programs beside those of this project, each with what holds the command, or why nothing here can.
FOREIGN = {
    "source": "the environment of `make setup`, in which all tests run",
    "eval": "tests/launch/test_completion.py",
    "cmp": "tests/cluster/test_methods.py compares these files",
    "vllm": "serves until it is ended; rollout engines load the same folder in tests/cluster",
    "tensorboard": "shows runs until it is ended; tests/tracking reads the same files",
    "kubectl": "a cluster of Kubernetes",
    "docker": "a container engine; `make image-test` builds and runs the cpu image without one",
    "promtool": "tests/tracking/test_grafana.py, where Prometheus is installed",
}
OF_NO_MACHINE = {Mode.plan, Mode.show, Mode.render, Mode.check, Mode.report}


def needs_machines(overrides: list[str]) -> bool:
    """True when a command asks for GPUs or another machine, so that no test can do what it does."""
    given = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    elsewhere = given.get("target", "here") != "here" or given.get("cluster", "local") != "local"
    return elsewhere and Mode[given.get("mode", "train")] not in OF_NO_MACHINE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_of_a_kind_that_a_test_looks_at_or_marked(page: Path) -> None:
    for block in BLOCK.findall(page.read_text()):
        words = commands_of(block)
        known = {"sdft", "make", "python", ".venv/bin/python"} | FOREIGN.keys()
        strange = [command for command in words if command[0] not in known and not command[0].startswith(("+", "'+"))]
        assert not strange, f"{page.name}: nothing holds {strange}"
        needing = [given for command in words if (given := overrides_of(command)) and needs_machines(given)]
        if needing or ["python", "-m", "pytest", "-m", "gpu"] in words:
            assert re.search(r"# .*needs", block), f"{page.name}: say in a comment what {needing} needs"


def test_every_documented_target_and_module_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in (words for page in PAGES for words in commands(page)):
        if words[0] == "make":
            assert words[1] in targets, words
        elif words[1:2] == ["-m"] and words[2].partition(".")[0] in ("sdft_ray", "tests"):
            path = ROOT / words[2].replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), words
