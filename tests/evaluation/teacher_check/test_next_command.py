"""The command that a check ends with: a shell and Hydra read it as it was meant."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from sdft_ray.config import Divergence, Match, RunConfig, Target
from sdft_ray.evaluation.teacher_check.advice import Current
from sdft_ray.evaluation.teacher_check.measure import Comparison
from sdft_ray.evaluation.teacher_check.next_command import FACTS, SKILLS, Recipe, next_command
from sdft_ray.evaluation.teacher_check.verdict import judge
from sdft_ray.launch import CONF, typed_config
from tests.evaluation.teacher_check.asked import comparison, half_right

GIVEN = ["+cluster=local", "mode=check_teacher", "data=jsonl", "data.source='my rows & more.jsonl'", "name=first"]
OWN = "It's {{ question }}\n\nHint \\ so: {{ demonstration }} $HOME"


def asked(
    student: int = 2,
    taught: int = 30,
    wrong: int = 2,
    *,
    best: str = "short",
    num_rows: int = 32,
    shown: int = 12,
    **lengths: int,
) -> Comparison:
    teachers = {best: half_right(taught, 32, -1.0), "other": half_right(0, 32, -2.0)}
    found = comparison(half_right(student, 32, -3.0), teachers, half_right(wrong, 32, -3.0), best=best)
    prompts = {name: replace(found.sample.lengths["short"], **lengths) for name in (best, "other")}
    probes = tuple(replace(probe, demonstration_tokens=(1,) * shown) for probe in found.sample.probes)
    sample = replace(found.sample, probes=probes, num_available=num_rows, lengths=found.sample.lengths | prompts)
    return replace(found, sample=sample)


def command(found: Comparison, given: list[str] = GIVEN, match: Match = Match.CONTAINS) -> str:
    now = Current(template="short", max_new_tokens=4)
    return next_command(found, judge(found, seed=0), now, match=match, given=given)


def composed(line: str) -> RunConfig:
    python, flag, module, *overrides = shlex.split(line)
    assert Path(python).name.startswith("python") and (flag, module) == ("-m", "sdft_ray.launch")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return typed_config(compose("config", overrides))


@pytest.mark.parametrize("recipe", [FACTS, SKILLS], ids=lambda recipe: recipe.name)
def test_the_sizes_known_of_a_recipe_are_those_of_its_file(recipe: Recipe) -> None:
    cfg = composed(f"python -m sdft_ray.launch +cluster=local +recipe={recipe.name}")
    assert (recipe.batch_size, recipe.max_new_tokens) == (cfg.batch_size, cfg.rollout.max_new_tokens)


def test_a_usable_teacher_trains_with_a_recipe_the_template_found_and_what_was_given() -> None:
    cfg = composed(command(asked(best="single_turn_short")))
    assert (cfg.mode.name, cfg.name, cfg.teacher.template) == ("train", "", "single_turn_short")
    assert cfg.data.source == "my rows & more.jsonl"
    assert cfg.loss.divergence is Divergence.FORWARD_KL
    assert (cfg.learner.learning_rate, cfg.batch_size) == (2e-4, FACTS.batch_size)


@pytest.mark.parametrize("template", [OWN, "own's.jinja", "a\\'b {{ question }} {{ demonstration }} \\"])
def test_any_template_is_quoted_for_shell_and_hydra(template: str) -> None:
    assert composed(command(asked(best=template))).teacher.template == template


def test_fewer_rows_than_the_recipes_batch_lower_it() -> None:
    assert composed(command(asked(num_rows=3))).batch_size == 3
    assert composed(command(asked(num_rows=3), [*GIVEN, "batch_size=2"])).batch_size == 2


def test_answers_of_a_form_take_the_recipe_for_skills() -> None:
    assert "+recipe=skills" in shlex.split(command(asked(), match=Match.TOOL_CALL))
    assert "+recipe=facts" in shlex.split(command(asked(), match=Match.EXACT))


def test_what_is_shown_best_by_turns_takes_the_recipe_for_skills() -> None:
    assert "+recipe=skills" in shlex.split(command(asked(best="turns")))


def test_long_demonstrations_take_the_recipe_for_skills_and_room_to_write() -> None:
    line = command(asked(shown=100))
    assert "+recipe=skills" in shlex.split(line)
    assert composed(line).rollout.max_new_tokens == 125


def test_short_demonstrations_leave_little_room_to_ramble() -> None:
    assert composed(command(asked(shown=4))).rollout.max_new_tokens == 5
    assert composed(command(asked(shown=4), [*GIVEN, "rollout.max_new_tokens=9"])).rollout.max_new_tokens == 9


def test_budgets_that_prompts_need_are_set_once() -> None:
    found = asked(longest=5000, num_over=3)
    line = command(found, [*GIVEN, "data.max_teacher_prompt_tokens=1200"])
    assert composed(line).data.max_teacher_prompt_tokens == 5000
    assert line.count("max_teacher_prompt_tokens") == 1


def test_a_recipe_or_experiment_of_the_users_own_is_kept() -> None:
    assert command(asked(), [*GIVEN, "+experiment=demo"]).count("+recipe=") == 0
    cfg = composed(command(asked(), [*GIVEN, "+recipe=skills", "check.num_examples=9"]))
    assert cfg.batch_size == SKILLS.batch_size


def test_an_undecided_check_goes_on_with_more_examples() -> None:
    cfg = composed(command(asked(10, 12, 9, num_rows=500)))
    assert (cfg.mode.name, cfg.check.num_examples) == ("check_teacher", 128)


@pytest.mark.parametrize("rights", [(10, 12, 9), (20, 2, 2)])
def test_a_teacher_of_no_use_is_left_out(rights: tuple[int, int, int]) -> None:
    cfg = composed(command(asked(*rights)))
    assert cfg.method.target is Target.TOKEN
    assert cfg.batch_size == FACTS.batch_size


def test_where_little_is_left_to_teach_there_is_no_command() -> None:
    assert command(asked(32, 32, 2)) == ""
