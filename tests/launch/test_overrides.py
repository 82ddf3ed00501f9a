"""What was typed behind the command is refused by name before anything is composed."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from sdft_ray.errors import ConfigError
from sdft_ray.launch import CONF, typed_config
from sdft_ray.launch.overrides import check_overrides, readable

ROOT = Path(__file__).parents[2]
UNKNOWN = [
    ("learner.lr=1e-4", "learner.lr=1e-4: there is no such setting; the nearest is learner.learning_rate."),
    ("+learner.lr=1e-4", "learner.lr=1e-4: there is no such setting; the nearest is learner.learning_rate."),
    ("++learner.lr=1e-4", "the nearest is learner.learning_rate"),
    ("+teacher.templat=turns", "teacher.templat=turns: there is no such setting; the nearest is teacher.template."),
    ("+evaluation.set.mine=a.jsonl", "the nearest is evaluation.sets."),
    ("+data.colums.prompt=q", "the nearest is data.columns."),
    ("+foo=1", "foo=1: there is no such setting; docs/settings.md and sdft --help list all."),
    ("+=1", "+=1=: is no setting; write KEY=VALUE."),
    ("cluster=local", "write +cluster=local, with a plus sign, to add it."),
    ("+method=sft", "write method=sft, without the plus sign, to replace it."),
    ("evaluation.prior=false", "evaluation.prior=false: is no text; write evaluation.prior='' for none"),
    ("evaluation.prior=null", "evaluation.prior=null: is no text"),
    ("stages=[facts num_steps=1, tools]", """write "stages=['facts num_steps=1', 'tools']", with both quotation"""),
    ("learning_rate=1e-4", "the nearest is learner.learning_rate."),
    ("+learner.learning_rate.scale=2", "the nearest is learner.learning_rate."),
    ("+cluster.rollout.workers=2", "the nearest is cluster.rollout.num_workers."),
    ("+learner={lr: 1}", "learner.lr=1: there is no such setting"),
    ("~learner.lr", "the nearest is learner.learning_rate."),
    ("learner.lr=1,2", "the nearest is learner.learning_rate."),
]
WRONG = [
    ("data.on_bad_row=skip", "data.on_bad_row=skip: is no choice; SKIP is meant, perhaps; it takes ERROR, SKIP."),
    ("num_steps=2.5", "num_steps=2.5: is no whole number; write digits, such as num_steps=8."),
    ("batch_size=true", "batch_size=true: is no whole number; write digits, such as batch_size=8."),
    ("seed=null", "seed=null: must have a value; leave it out for its default, which docs/settings.md has."),
    (
        "learner.learning_rate=abc",
        "learner.learning_rate=abc: is no number; write one such as learner.learning_rate=1e-5.",
    ),
    (
        "learner.gradient_checkpointing=maybe",
        "learner.gradient_checkpointing=maybe: is neither true nor false; write learner.gradient_checkpointing=true "
        "or learner.gradient_checkpointing=false.",
    ),
    (
        "recipe=facs",
        "recipe=facs: there is no such file in conf/recipe; facts is meant, perhaps; there are facts, skills.",
    ),
    (
        "data.columns={prompt: q}",
        "data.columns={prompt: q}: is a new entry of a mapping; write it with a plus sign: "
        "'+data.columns={prompt: q}'.",
    ),
    (
        "data.filter.lang=en",
        "data.filter.lang=en: is a new entry of a mapping; write it with a plus sign: '+data.filter.lang=en'.",
    ),
    (
        "data.source=a.jsonl,b.jsonl",
        "data.source=a.jsonl,b.jsonl: commas separate the runs of a sweep, which --multirun starts; write a text as "
        "\"data.source='a.jsonl,b.jsonl'\" and a list as 'data.source=[a.jsonl,b.jsonl]', with all quotation marks.",
    ),
    ("learner=5", "learner=5: is a section of settings, not one; set a key of it: learner.NAME=VALUE."),
    ("seeds=[a]", "seeds=[a]: Value 'a' of type 'str' could not be converted to Integer"),
    (
        "runs=runs/mine",
        "runs=runs/mine: is no list; write runs='[runs/mine]', with both quotation marks where it holds any sign but "
        "letters.",
    ),
    (
        "evaluation.sets=a.jsonl",
        "evaluation.sets=a.jsonl: is no mapping; write its entries with a plus sign, such as "
        "+evaluation.sets.NAME=VALUE.",
    ),
]
KNOWN = [
    "+cluster=local",
    "+experiment=demo",
    "model=custom",
    "+evaluation.sets.mine=a.jsonl",
    "+evaluation.sets.hard={source: hard.jsonl, num_samples: 16, pass_at: [1, 8]}",
    "+evaluation.sets.mine.columns.answer=gold",
    "+data.columns.answer=key",
    "+evaluation.judge.parameters.top_p=1",
    "seed=1,2,3",
    "hydra.run.dir=x",
    "data.source='builtin:facts:taught[:2]'",
]


@pytest.mark.parametrize(("override", "message"), UNKNOWN, ids=[override for override, _ in UNKNOWN])
def test_an_unknown_key_is_refused_with_the_nearest_with_and_without_a_plus_sign(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_overrides(["+cluster=local", override])
    assert message in str(refused.value)


@pytest.mark.parametrize("override", KNOWN)
def test_what_a_user_may_add_stays_allowed(override: str) -> None:
    check_overrides([override])


def test_an_unquoted_bracket_gets_the_quotation_marks_that_are_missing() -> None:
    with pytest.raises(ConfigError) as refused:
        check_overrides(["data.source=builtin:facts:taught[:2]"])
    assert "write \"data.source='builtin:facts:taught[:2]'\", with both quotation marks" in str(refused.value)


@pytest.mark.parametrize(("override", "message"), WRONG, ids=[override for override, _ in WRONG])
def test_a_value_of_another_type_is_refused_in_words(override: str, message: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(HydraException) as refused:
        compose("config", ["+cluster=local", override.replace("recipe", "+recipe")])
    assert str(readable(refused.value)) == message


def test_what_is_no_setting_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="write KEY=VALUE"):
        check_overrides(["local"])


def test_a_key_that_was_added_past_the_command_line_is_refused_as_well() -> None:
    """As a caller of Hydra's compose can; OmegaConf would drop it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", ["+cluster=local", "+learner.lr=1e-4"])
    with pytest.raises(ConfigError, match="the nearest is learner.learning_rate"):
        typed_config(composed)


def test_an_unknown_key_of_a_file_or_a_stage_is_refused_with_the_nearest_and_without_a_traceback(
    tmp_path: Path,
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nlearner:\n  lr: 1\n")
    expected = "error: In 'experiment/mine': learner.lr is no setting; the nearest is learner.learning_rate."
    assert refusal(f"hydra.searchpath=[{tmp_path}]", "+experiment=mine") == expected
    expected = "error: learner.lr=3: there is no such setting; the nearest is learner.learning_rate."
    assert refusal("stages=['facts +learner.lr=3']") == expected


def refusal(*overrides: str) -> str:
    command = [sys.executable, "-m", "sdft_ray.launch", "+cluster=local", "mode=plan", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    return done.stderr.strip()
