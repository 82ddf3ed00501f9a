"""The plan as a whole: what it says, and that it starts nothing."""

import io
import json
import sys
from pathlib import Path

import pytest
import ray
from rich.console import Console

from sdft_ray.errors import ConfigError
from sdft_ray.launch import main
from sdft_ray.launch.showing import show_plan
from sdft_ray.planning.plan import Plan
from tests.planning.composed import ROLES, config, plan
from tests.tiny import make_tiny_model


def text_of(made: Plan) -> str:
    written = io.StringIO()
    made.show(Console(file=written, width=160))
    return written.getvalue()


def test_the_command_prints_the_plan_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    arguments = ["+cluster=8xA100", "mode=plan", "plan.model=qwen2.5-7b", f"runs_dir={runs}"]
    monkeypatch.setattr(sys, "argv", ["launch", *arguments])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(ray, "init")
    main()
    assert "predictions, nothing is started" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_nothing_but_a_config_is_enough(tmp_path: Path) -> None:
    folder = Path(make_tiny_model(tmp_path / "full"))
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((folder / "config.json").read_text())
    made = plan("+cluster=local", f"model.path={bare}", "data.max_prompt_tokens=77")
    assert made.work.lengths.prompt == 77
    assert made.work.lengths.origin == "the budgets of data and rollout"


def test_with_a_tokenizer_the_prompts_are_measured(tmp_path: Path) -> None:
    made = plan("+cluster=local", f"model.path={make_tiny_model(tmp_path / 'full')}")
    assert made.work.lengths.prompt < made.work.lengths.teacher_prompt < 1024
    assert "96 examples of builtin:facts" in made.work.lengths.origin


@pytest.mark.parametrize(
    ("key", "named"), [("evaluation.prior", "evaluation.prior"), ("+evaluation.sets.own", "evaluation.sets.own.source")]
)
def test_an_evaluation_source_that_is_not_there_is_refused_where_prompts_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, named: str
) -> None:
    wrong = f"{key}={tmp_path / 'missing.jsonl'}"
    arguments = ("+cluster=local", f"model.path={make_tiny_model(tmp_path / 'full')}", wrong)
    with pytest.raises(ConfigError, match=rf"^{named}={tmp_path}/missing\.jsonl: "):
        show_plan([[("", config(*arguments))]])
    assert "predictions" not in capsys.readouterr().out
    show_plan([[("", config(*arguments, "plan.model=qwen2.5-7b"))]])  # needs no tokenizer, and so no question
    assert "predictions, nothing is started" in capsys.readouterr().out


def test_rehearsal_has_lengths_of_its_own_in_the_mean(tmp_path: Path) -> None:
    settings = ("+cluster=local", f"model.path={make_tiny_model(tmp_path / 'full')}", "batch_size=4", "method=sft")
    plain = plan(*settings).work.lengths
    rehearsing = plan(*settings, "data.rehearsal.share=0.5", "data.rehearsal.max_new_tokens=500").work.lengths
    assert rehearsing.completion == pytest.approx((plain.completion + 500) / 2, abs=1)
    assert rehearsing.prompt != plain.prompt


def test_a_mix_is_planned_and_its_sources_are_named(tmp_path: Path) -> None:
    mix = ("data=mix", "+data.mix.facts='builtin:facts'", "+data.mix.tools.source='builtin:tools'")
    made = plan("+cluster=local", f"model.path={make_tiny_model(tmp_path / 'full')}", *mix)
    assert "of 1 facts (builtin:facts) : 1 tools (builtin:tools)" in made.work.lengths.origin


def test_a_small_model_fits_everywhere() -> None:
    for cluster in ("local", "1xH100", "8xA100", "2x8xH100", "4x8xH100"):
        made = plan(f"+cluster={cluster}", "data.max_teacher_prompt_tokens=1024")
        assert made.misfits == []
        assert "everything fits" in text_of(made)


def test_a_misfit_is_printed_with_what_makes_it_fit() -> None:
    made = plan("+cluster=8xA100", "plan.model=qwen2.5-7b")
    text = text_of(made)
    assert "does not fit: learner needs" in text
    assert f"fits {made.proposals[0]}" in text and " ".join(made.proposals[0].overrides) in text


def test_a_misfit_without_a_remedy_says_so() -> None:
    text = text_of(plan("+cluster=local", "plan.model=qwen2.5-72b"))
    assert "no setting makes it fit: take machines with more memory, or a smaller model" in text


def test_the_plan_is_also_plain_containers() -> None:
    made = json.loads(json.dumps(plan("+cluster=8xA100", "plan.model=qwen2.5-7b").as_dict()))
    assert made["fits"] is False
    assert set(made["memory_gib"]) == set(ROLES)
    for memory in made["memory_gib"].values():
        assert memory["total"] == pytest.approx(sum(memory["held"].values()) + max(memory["phases"].values()))
