"""Settings that name a file of this machine are refused before another machine misses it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.config import RunConfig
from sdft_ray.errors import ConfigError
from sdft_ray.targets.elsewhere import for_elsewhere, is_absolute, named_files
from tests.test_conf import compose_with

ROWS = '{"prompt": "a", "demonstration": "b"}\n'
NAMING = {
    "model.path": ["model=custom", "model.path=own"],
    "teacher.template": ["teacher.template=own.jinja"],
    "teacher.pool.source": ["teacher.demonstrations=POOL", "teacher.pool.source=rows.jsonl"],
    "data.source": ["data=jsonl", "data.source=rows.jsonl"],
    "data.mix.mine.source": ["data=mix", "+data.mix.mine=rows.jsonl"],
    "data.rehearsal.source": ["data.rehearsal.share=0.25", "data.rehearsal.source=rows.jsonl"],
    "evaluation.prior": ["evaluation.prior=rows.jsonl"],
    "evaluation.general": ["evaluation.general=rows.jsonl"],
    "evaluation.sets.mine.source": ["+evaluation.sets.mine=rows.jsonl"],
    "harness.data": ["harness.data=own"],
    "resume": ["resume=own"],
}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text(ROWS)
    (tmp_path / "own.jinja").write_text("{{ question }}")
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)


def sent(*overrides: str) -> RunConfig:
    cfg = compose_with("+cluster=8xA100", *overrides)
    return for_elsewhere(cfg, "/shared", "copy it", sees=is_absolute)


@pytest.mark.parametrize("key", NAMING)
def test_each_setting_that_can_name_a_file_is_looked_at(key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}=.*is a file of this machine, which the job does not see; copy it"):
        sent(*NAMING[key])


@pytest.mark.parametrize("source", ["rows.jsonl[:1]", "*.jsonl", "rows.jsonl,rows.jsonl", "./rows.jsonl"])
def test_patterns_lists_and_selections_are_files_too(source: str) -> None:
    with pytest.raises(ConfigError, match="data.source"):
        sent("data=jsonl", f"data.source='{source}'")


@pytest.mark.parametrize("source", ["nowhere.jsonl", "data/rows.csv.gz", "./nowhere.parquet"])
def test_a_relative_file_that_is_not_here_either_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="^data.source=.*is relative to a folder of this machine.*copy it"):
        sent("data=jsonl", f"data.source={source}")


def test_what_is_no_file_here_is_taken_as_it_is(tmp_path: Path) -> None:
    sent("data=hub", "data.source=org/name", "model=custom", "model.path=org/model")
    sent("data=jsonl", f"data.source={tmp_path}/rows.jsonl")
    sent("teacher.template='{{ question }} {{ demonstration }}'")


def test_a_job_of_another_machine_goes_on_where_an_earlier_try_ended() -> None:
    assert sent().resume == "auto"
    assert sent().runs_dir == "/shared"


def test_no_setting_that_is_called_after_a_file_is_forgotten() -> None:
    """A source or a path that is new in the settings has to be named in `named_files`, or here with its reason."""
    of_this_machine_alone = {
        "evaluation.judge.cache_dir",  # is written
        "target.storage.path",  # of the pods
        "target.crds",  # read by mode=check here
        "report.out",  # of mode=report, and that of mode=show
        "show.out",
    }
    cfg = compose_with("+cluster=8xA100")
    words = ("path", "source", "template", "dir", "file", "folder", "crds", "out")
    found = {key for key in _keys(cfg, "") if key.rpartition(".")[2].rpartition("_")[2] in words}
    texts = {"model.chat_template", "evaluation.judge.template", "runs_dir"}  # Jinja text, and what is written
    looked_at = set(NAMING) | {"teacher.path"}
    assert found - of_this_machine_alone - texts <= looked_at
    assert set(named_files(cfg)) <= looked_at | {f"evaluation.sets.{name}.source" for name in cfg.evaluation.sets}


def _keys(settings: Any, prefix: str) -> list[str]:
    keys = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        key = f"{prefix}{field.name}"
        keys += _keys(value, f"{key}.") if dataclasses.is_dataclass(value) else [key]
    return keys
