"""mode=check_teacher as a user runs it, on a tiny random model, and what it refuses before anything is started."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from sdft_ray.cluster.check import TeacherCheck
from sdft_ray.cluster.check_inputs import read_check_inputs, templates_to_check
from sdft_ray.config import CheckConfig, RunConfig, TeacherConfig, TeacherContext
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.launch import CONF, typed_config
from tests.cluster.command import SETTINGS

BUILT_IN = ["single_turn", "single_turn_short", "turns", "thinking"]


def config(folder: str, *overrides: str) -> RunConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = [*SETTINGS, f"model.path={folder}", "mode=check_teacher", *overrides]
        return typed_config(compose("config", settings))


def test_by_default_the_runs_own_template_is_compared_with_those_built_in() -> None:
    assert templates_to_check(CheckConfig(), TeacherConfig(template="turns"))[0] == [
        "turns",
        "single_turn",
        "single_turn_short",
        "thinking",
    ]
    own = "{{ question }} Hint: {{ demonstration }}"
    assert templates_to_check(CheckConfig(), TeacherConfig(template=own))[0] == [own, *BUILT_IN]
    assert templates_to_check(CheckConfig(templates=["turns", own, "turns"]), TeacherConfig())[0] == ["turns", own]


def test_a_built_in_template_that_cannot_show_the_context_is_left_out_and_told() -> None:
    templates, left_out = templates_to_check(CheckConfig(), TeacherConfig(context=TeacherContext.TEXT))
    assert templates == ["single_turn", "single_turn_short", "thinking"]
    assert left_out == (
        "teacher.template=turns: does not show the text, though teacher.context=TEXT; "
        "write {{ text }} into the template, or choose another teacher.context.",
    )


def test_a_template_that_was_asked_for_is_refused_under_its_setting() -> None:
    with pytest.raises(ConfigError, match=r"check\.templates=singel: is no built-in template"):
        templates_to_check(CheckConfig(templates=["turns", "singel"]), TeacherConfig())
    with pytest.raises(ConfigError, match=r"teacher\.template=\{\{ question \}\}: does not show the demonstration"):
        templates_to_check(CheckConfig(), TeacherConfig(template="{{ question }}"))


def test_templates_are_written_on_the_command_line(folder: str) -> None:
    text = "{{ question }}\n\nHint: {{ demonstration }}"
    assert config(folder, f"teacher.template='{text}'").teacher.template == text
    assert config(folder, f"check.templates=[turns,'{text}']").check.templates == ["turns", text]


def test_the_tools_are_scored_as_calls() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = typed_config(compose("config", ["+cluster=local", "data=tools"]))
    assert cfg.check.match is not None and cfg.check.match.name == "TOOL_CALL"
    assert cfg.check.max_new_tokens == 64


REFUSED = [
    (["teacher.context=NONE"], "teacher.context=NONE: shows the teacher nothing, so there is nothing to check"),
    (
        ["teacher.path=other", "teacher.weights=FROZEN"],
        "teacher.path=other: names another model than the student, but mode=check_teacher asks model.path under both",
    ),
    (["resume=auto", "name=again"], "resume=auto: mode=check_teacher asks the model of model.path as it is"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_a_check_cannot_ask_is_refused(folder: str, tmp_path: Path, overrides: list[str], message: str) -> None:
    cfg = config(folder, f"runs_dir={tmp_path}", *overrides)
    with pytest.raises(ConfigError, match=re.escape(message)):
        TeacherCheck(cfg, [])
    assert list(tmp_path.iterdir()) == []


def test_a_method_without_a_teacher_is_checked_all_the_same(folder: str) -> None:
    inputs = read_check_inputs(config(folder, "method=sft", "check.num_examples=4"))
    assert len(inputs.sample.probes) == 4
    assert set(inputs.sample.probes[0].teacher_prompts) == set(BUILT_IN)
    assert inputs.max_model_len < inputs.facts.context_length


def test_data_smaller_than_a_batch_is_checked_all_the_same(folder: str) -> None:
    inputs = read_check_inputs(config(folder, "data.source='builtin:facts:taught[:3]'", "batch_size=64"))
    assert len(inputs.sample.probes) == 3


def test_a_judge_is_not_asked_and_the_user_told(folder: str) -> None:
    inputs = read_check_inputs(config(folder, "evaluation.match=JUDGE"))
    assert all(probe.gold is None for probe in inputs.sample.probes)
    unscored = "check.match=JUDGE: no judge is asked, so answers are not scored; set check.match to score by rule"
    assert unscored in inputs.notes
    scored = read_check_inputs(config(folder, "evaluation.match=JUDGE", "check.match=CONTAINS"))
    assert all(probe.gold is not None for probe in scored.sample.probes)


def test_own_demonstrations_are_compared_with_the_pools_under_every_retriever(folder: str, tmp_path: Path) -> None:
    for more in ([], ["teacher.demonstrations=POOL", "teacher.pool.num=2", "teacher.pool.retriever=RANDOM"]):
        inputs = read_check_inputs(config(folder, "data.source=builtin:facts:taught", "check.num_examples=6", *more))
        for probe in inputs.sample.probes:
            assert set(probe.pools) == {"BM25", "RANDOM"}
            num = 2 if more else 1
            assert len(probe.pools["RANDOM"].ids) == num and 1 <= len(probe.pools["BM25"].ids) <= num
            for pool in probe.pools.values():
                assert probe.example_id not in pool.ids
                assert set(pool.prompts) == set(BUILT_IN)
                shown = inputs.tokenizer.decode(pool.prompts["turns"])
                assert probe.demonstration not in shown
                assert inputs.tokenizer.decode(probe.teacher_prompts["turns"]).count(probe.demonstration) == 1


def test_rows_without_a_demonstration_are_not_asked_and_a_pool_without_others_is_left_out(
    folder: str, tmp_path: Path
) -> None:
    def rows(*demonstrations: str, prompt: str = "Q{}?") -> str:
        lines = [{"prompt": prompt.format(place), "demonstration": d} for place, d in enumerate(demonstrations)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return f"data.source={tmp_path}/rows.jsonl"

    inputs = read_check_inputs(config(folder, rows("One.", "", "Two."), "teacher.demonstrations=POOL"))
    assert len(inputs.sample.probes) == 2
    assert "1 rows without a demonstration of their own are not asked" in inputs.notes
    assert "2 of the rows asked share no word with the pool: BM25 shows nothing with them" in inputs.notes
    with pytest.raises(DataError, match="line 1: no row has a demonstration of its own, which the check compares"):
        (tmp_path / "pool.jsonl").write_text(
            '{"prompt": "A?", "demonstration": "A."}\n{"prompt": "B?", "text": "B."}\n'
        )
        pool = ["teacher.demonstrations=POOL", f"teacher.pool.source={tmp_path}/pool.jsonl", "teacher.pool.num=1"]
        read_check_inputs(config(folder, rows("", ""), *pool, "teacher.pool.exclude_own=false"))
    alike = read_check_inputs(config(folder, rows("One.", "Two.", prompt="The same?")))
    assert alike.sample.probes[0].pools == {}
    assert any(note.startswith("the pool is left out: teacher.pool.num=1: ") for note in alike.notes)
    with pytest.raises(ConfigError, match=r"teacher\.pool\.num=1: .* has 1 rows of different prompts"):
        read_check_inputs(config(folder, rows("One.", "Two.", prompt="The same?"), "teacher.demonstrations=POOL"))


MIX = ["data=mix", "data.source=''", "+data.mix.facts='builtin:facts:taught'", "+data.mix.worded='builtin:facts:train'"]


def test_of_a_mix_every_source_gives_its_share_and_is_its_own_pool(folder: str) -> None:
    weights = ["+data.mix.facts={source: 'builtin:facts:taught', weight: 3}", *MIX[3:]]
    inputs = read_check_inputs(config(folder, *MIX[:2], *weights, "check.num_examples=8", "data.system=''"))
    probes = inputs.sample.probes
    assert [probe.example_id.partition(":")[0] for probe in probes] == ["facts"] * 6 + ["worded"] * 2
    for probe in probes:
        for pool in probe.pools.values():
            assert {hit.partition(":")[0] for hit in pool.ids} == {probe.example_id.partition(":")[0]}
            assert probe.example_id not in pool.ids


def test_a_pool_that_is_named_serves_every_source_of_a_mix(folder: str) -> None:
    pool = "teacher.pool.source=builtin:facts:taught"
    inputs = read_check_inputs(config(folder, *MIX, "check.num_examples=4", pool))
    hits = {hit for probe in inputs.sample.probes for pool in probe.pools.values() for hit in pool.ids}
    assert hits and not any(":" in hit for hit in hits)


def test_a_bad_source_of_a_mix_is_named(folder: str, tmp_path: Path) -> None:
    (tmp_path / "bare.jsonl").write_text('{"prompt": "A?"}\n')
    bare = f"+data.mix.bare={tmp_path}/bare.jsonl"
    with pytest.raises(DataError, match=r"^data\.mix\.bare: .*line 1: has no column demonstration"):
        read_check_inputs(config(folder, *MIX[:3], bare))


def test_one_example_is_refused(folder: str) -> None:
    with pytest.raises(DataError, match=r"row 1: is the only example"):
        read_check_inputs(config(folder, "data.source='builtin:facts:taught[:1]'"))


def test_the_command_reports_on_every_prompt_and_starts_rollout_workers_only(
    launch: Callable[..., Any], folder: str
) -> None:
    run_dir, output = launch("check", "mode=check_teacher", "check.num_examples=99")
    assert "check.num_examples=99: the data has 8 examples, all are taken" in output
    assert "teacher check of" in output and "verdict: " in output and "set: " in output
    assert "\nnext: " in output and f"model.path={folder}" in output.partition("\nnext: ")[2]
    logs = {path.name for path in (run_dir / "logs").iterdir()}
    assert "rollout-0.log" in logs and not {"teacher-0.log", "learner-0.log"} & logs
    found = json.loads((run_dir / "check_teacher.json").read_text())
    assert set(found["teachers"]) == set(BUILT_IN)
    assert found["num_examples"] == len(found["examples"]) == 8
    for measured in (found["student"], *found["teachers"].values(), found["wrong_demonstration"]):
        assert 0 <= measured["accuracy"]["mean"] <= 1
        assert measured["logprob_nats"]["mean"] < 0
    for teacher in found["teachers"].values():
        assert teacher["divergence_nats"]["high"] > 0, "the demonstration changes the distribution"
    assert found["verdict"]["usable"] in ("YES", "NO", "UNDECIDED")


def test_a_check_is_asked_at_temperature_one(folder: str, tmp_path: Path) -> None:
    cfg = config(folder, f"runs_dir={tmp_path}", "rollout.temperature=0.5", "name=cool")
    check = TeacherCheck(cfg, [])
    assert check.cfg.rollout.temperature == 1.0
