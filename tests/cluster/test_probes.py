"""What the probes read: no process is started, but a model folder is read."""

from pathlib import Path

import pytest

from sdft_ray.cluster.probes import check_resumable
from sdft_ray.cluster.run_folder import RunFolder
from sdft_ray.cluster.run_inputs import RunInputs, read_inputs
from sdft_ray.config import RunConfig
from sdft_ray.errors import CheckpointError, ConfigError
from sdft_ray.evaluation.retention import MAX_NEW_TOKENS
from tests.planning.composed import config
from tests.tiny import make_tiny_model

SETTINGS = [
    "+cluster=local",
    "model=custom",
    "data=jsonl",
    "data.source=builtin:facts",
    "data.split='taught[:8]'",
    "evaluation.prior=",
    "batch_size=8",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model"), context=768)


def composed(folder: str, *overrides: str) -> RunConfig:
    return config(*SETTINGS, "rollout.max_new_tokens=16", f"model.path={folder}", *overrides)


def read(folder: str, *overrides: str) -> RunInputs:
    return read_inputs(composed(folder, *overrides))


def test_the_built_in_prompts_and_eight_examples_are_read_and_workers_have_room_for_them(folder: str) -> None:
    inputs = read(folder)
    probes = inputs.probes
    assert len(probes.general) == 32 and len(probes.gap_examples) == 8
    for prompt in probes.general:
        assert len(prompt.prompt_tokens) + MAX_NEW_TOKENS < inputs.max_model_len
    for row in probes.gap_examples:
        assert len(row.teacher_prompt_tokens) + len(row.demonstration_tokens) < inputs.max_model_len


def test_both_probes_can_be_turned_off(folder: str) -> None:
    probes = read(folder, "evaluation.general=", "evaluation.num_gap_examples=0").probes
    assert (probes.general, probes.gap_examples) == ([], [])


def test_a_teacher_without_context_leaves_no_gap_to_measure(folder: str) -> None:
    assert read(folder, "teacher.context=NONE").probes.gap_examples == []


def test_general_prompts_alone_can_be_trained_on_where_nobody_reads_a_demonstration(folder: str) -> None:
    general = ["data.source=builtin:general", "data.split=train", "method=reinvoke", f"teacher.path={folder}"]
    inputs = read(folder, *general)
    assert inputs.examples.examples_per_epoch == 32
    example = next(inputs.examples)
    assert example.prompt_tokens == example.teacher_prompt_tokens
    with pytest.raises(Exception, match="demonstration"):
        read(folder, *general[:2])


def test_a_prompt_too_long_for_the_model_is_refused_by_its_id(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text('{"id": "long", "prompt": "' + "x " * 700 + '"}\n')
    with pytest.raises(ConfigError, match=r"evaluation\.general=.*'long' takes"):
        read(folder, f"evaluation.general={path}")


def test_a_file_of_prompts_needs_none_of_the_data_columns(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text('{"prompt": "Say something."}\n')
    assert len(read(folder, f"evaluation.general={path}", "+data.columns.answer=key").probes.general) == 1


def test_general_prompts_need_rollout_workers_and_the_gap_only_uses_them(folder: str) -> None:
    assert composed(folder, "method=sft").needed_roles() == ["rollout", "learner"]
    assert composed(folder, "method=sft", "evaluation.general=").needed_roles() == ["learner"]


def test_a_resumed_run_that_lost_the_bases_completions_ends_before_anything_starts(folder: str, tmp_path: Path) -> None:
    probes = read(folder).probes
    resumed = RunFolder(tmp_path, tmp_path / "checkpoints" / "step-000002")
    with pytest.raises(CheckpointError, match=r"retention\.jsonl is missing"):
        check_resumable(probes, resumed)
    check_resumable(probes, RunFolder(tmp_path, None))
    check_resumable(read(folder, "evaluation.general=").probes, resumed)
