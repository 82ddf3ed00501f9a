"""Several data sets one after the other: what a stage may change, and a run through two of them on real parts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from sdft_ray.cluster.stages import Stages
from sdft_ray.config import RunConfig
from sdft_ray.errors import ConfigError
from sdft_ray.launch import CONF, typed_config
from sdft_ray.weights.plan import plan_weights
from tests.tiny import make_tiny_model


def configs(model: str, *stages: list[str]) -> list[tuple[str, RunConfig]]:
    shared = ["+cluster=local", "model=custom", f"model.path={model}", "batch_size=4", "num_steps=2"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return [(own[0].partition("=")[2], typed_config(compose("config", [*shared, *own]))) for own in stages]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model"), context=2048)


def test_stages_follow_one_another_and_share_their_evaluation_sets(model: str) -> None:
    stages = Stages(configs(model, ["data=facts"], ["data=tools", "num_steps=3", "learner.learning_rate=1e-4"]))
    assert [(stage.first_step, stage.last_step) for stage in stages] == [(0, 2), (2, 5)]
    cfg, inputs = stages.shared
    assert list(inputs.evaluation_sets) == ["taught", "paraphrased", "indirect", "tools"]
    named = cfg.evaluation.named_sets()
    assert {name: of_set.match.name for name, of_set in named.items()} == {
        "taught": "CONTAINS",
        "paraphrased": "CONTAINS",
        "indirect": "CONTAINS",
        "tools": "TOOL_CALL",
    }
    assert named["tools"].max_new_tokens == 64
    assert inputs.num_steps == 5
    assert inputs.max_model_len == max(stage.inputs.max_model_len for stage in stages)
    assert stages.at(2).name == "facts" and stages.at(3).name == "tools"
    assert [example.max_new_tokens for example in stages.drawn()] == [32] * 8 + [64] * 12


def test_workers_keep_the_initial_weights_for_whichever_stage_rehearses(model: str) -> None:
    stages = Stages(configs(model, ["data=facts"], ["data=tools", "batch_size=20", "data.rehearsal.share=0.1"]))
    assert not next(iter(stages)).cfg.data.rehearsal.is_on
    assert plan_weights(stages.shared[0], 1).teachers_keep_initial
    assert [example.is_rehearsal for example in stages.drawn()].count(True) == 4
    assert any(note.startswith("rehearsal: 2 of the 20 rows") for note in stages.shared[1].notes)


def test_a_stage_that_needs_other_workers_is_refused_by_key(model: str) -> None:
    with pytest.raises(ConfigError, match="learner.zero_stage=3: stage tools has 3 there, and the first stage 2"):
        Stages(configs(model, ["data=facts"], ["data=tools", "learner.zero_stage=3"]))


def test_two_stages_cannot_mean_different_sets_by_one_name(model: str) -> None:
    other = ["data=facts", "evaluation.sets.taught=builtin:facts:test"]
    with pytest.raises(ConfigError, match="evaluation.sets.taught=.*: stage facts means another set"):
        _ = Stages(configs(model, ["data=facts"], other)).shared


FIRST = "jsonl data.source='builtin:facts:taught[:4]'"
SECOND = (
    "facts data.source='builtin:facts:test[:4]' rollout.max_new_tokens=6 +evaluation.sets.asked='builtin:facts:ood[:4]'"
)
STAGES = f'stages=["{FIRST}","{SECOND}"]'


@pytest.fixture(scope="module")
def staged(launch: Callable[..., Any]) -> Path:
    run_dir: Path = launch("staged", STAGES, "num_steps=2", "checkpoint_every=3", "tracking.num_samples=4")[0]
    return run_dir


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_goes_through_its_stages_with_the_same_workers(staged: Path) -> None:
    metrics = lines(staged / "metrics.jsonl")
    steps = [(line["step"], line["stage"]) for line in metrics if "learner/loss" in line]
    assert steps == [(1, "jsonl"), (2, "jsonl"), (3, "facts"), (4, "facts")]
    evaluated = [line["step"] for line in metrics if "evaluation/asked_accuracy" in line]
    assert evaluated == [0, 2, 4]
    lengths = {line["step"]: len(line["token_ids"]) for line in lines(staged / "samples.jsonl") if line["truncated"]}
    assert {step: length for step, length in lengths.items() if step > 2} == {3: 6, 4: 6}
    assert 12 in lengths.values()


def test_a_run_that_stopped_in_a_later_stage_goes_on_there(staged: Path, launch: Callable[..., Any]) -> None:
    resumed, output = launch(
        "staged-on",
        STAGES,
        "num_steps=2",
        f"resume={staged / 'checkpoints' / 'step-000003'}",
    )
    steps = [(line["step"], line["stage"]) for line in lines(resumed / "metrics.jsonl") if "learner/loss" in line]
    assert steps == [(4, "facts")]
    again, before = (
        next(
            line["learner/loss"]
            for line in lines(run / "metrics.jsonl")
            if line["step"] == 4 and "learner/loss" in line
        )
        for run in (resumed, staged)
    )
    assert again == pytest.approx(before, abs=1e-4)


def test_an_unknown_stage_is_refused_with_those_there_are(launch: Callable[..., Any]) -> None:
    output = launch("nowhere", "stages=[facts,nonsense]", fails=True)[1]
    assert "stages='nonsense'" in output and "name configurations in conf/data" in output
