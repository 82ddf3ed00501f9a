"""Every file under conf/ composes, and every setting a person may get wrong is refused with its name and a remedy."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from sdft_ray.config import Precision, RunConfig
from sdft_ray.config.saved import plain_settings
from sdft_ray.data.dataset import read_dataset
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.rows import KEYS, LOST
from sdft_ray.data.stream import ExampleStream
from sdft_ray.errors import SdftError
from sdft_ray.launch import CONF, typed_config
from sdft_ray.models.resolve import load_tokenizer
from tests.tiny import make_tiny_model

ROOT = Path(__file__).parents[1]
NEEDED = {
    "custom": ["model.path=somewhere"],
    "jsonl": ["data.source=some.jsonl"],
    "hub": ["data.source=some/name"],
    "mix": ["+data.mix.mine=some.jsonl"],
    "kuberay": ["mode=render", "name=mine", "target.image=some/image:tag", "target.storage.claim=some"],
    "reinvoke": ["teacher.path=base"],
    "medical": ["evaluation.judge.dry_run=true"],  # else a judge has to be named
}
EXPERIMENTS = {"demo", "claims", "teacher_pool"}  # those of the paper: tests/test_experiments.py
FILES = sorted(
    path.relative_to(CONF)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name != "experiment" or path.stem in EXPERIMENTS
)


def compose_with(*overrides: str) -> RunConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return typed_config(compose("config", list(overrides)))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_composes(path: Path) -> None:
    group, name = path.parent.name, path.stem
    sign = "+" if group in ("cluster", "experiment", "recipe") else ""
    overrides = [f"{sign}{group}={name}", *NEEDED.get(name, [])]
    if group != "cluster":
        overrides.append("+cluster=local")
    cfg = compose_with(*overrides)
    if group == "cluster":
        assert cfg.cluster.name == name
    if group == "method":
        assert cfg.method.name == name


@pytest.mark.parametrize("recipe", ["facts", "skills"])
def test_a_recipe_fits_a_dozen_rows_of_ones_own(recipe: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "Which port?", "demonstration": "Port 7443."}\n' * 12)
    folder = make_tiny_model(tmp_path / "model")
    cfg = compose_with("+cluster=local", f"+recipe={recipe}", "data=jsonl", f"data.source={file}")
    builder = PromptBuilder(load_tokenizer(folder, ""), cfg.teacher)
    rows = read_dataset(cfg.data, cfg.method, builder).rows
    stream = ExampleStream(rows, batch_size=cfg.batch_size, seed=0, max_new_tokens=cfg.rollout.max_new_tokens)
    assert stream.examples_per_epoch == 12, "no row is left out of an epoch"
    assert cfg.loss.divergence.name == "FORWARD_KL"


def test_the_defaults_are_the_papers_objective() -> None:
    cfg = compose_with("+cluster=local")
    assert cfg.loss.divergence.name == "REVERSE_KL"
    assert cfg.teacher.ema_decay == 0.99
    assert cfg.max_staleness == 0
    assert (cfg.method.completion.name, cfg.method.target.name) == ("STUDENT", "TEACHER")


def test_every_method_can_follow_another_without_its_settings() -> None:
    assert compose_with("+cluster=local", "method=sdft_paper").loss.divergence.name == "FORWARD_KL"
    assert compose_with("+cluster=local", "method=sft").method.target.name == "TOKEN"


def test_clusters_place_all_their_gpus() -> None:
    for path in (CONF / "cluster").glob("*.yaml"):
        cluster = compose_with(f"+cluster={path.stem}").cluster
        if cluster.turns:  # all of them on one, which each fills in its turn
            assert 0 < cluster.num_gpus <= cluster.gpus_per_node == 1
        else:
            assert cluster.num_gpus == cluster.num_nodes * cluster.gpus_per_node


BAD = [
    (["learner.learning_rate=-1e-5"], "learner.learning_rate=-1e-05: must lie in (0, 1]"),
    (["learner.learning_rate=1e10"], "learner.learning_rate=10000000000.0: must lie in (0, 1]"),
    (["learner.zero_stage=4"], "learner.zero_stage=4: is not a ZeRO stage; choose 0, 1, 2 or 3"),
    (["loss.divergence=JSD", "loss.jsd_beta=1.0"], "loss.jsd_beta=1.0: JSD vanishes at both ends"),
    (["loss.divergence=FORWARD_KL", "loss.estimator=SAMPLED_TOKEN"], "set loss.estimator=ANALYTIC"),
    (["teacher.ema_decay=0.01"], "set ema_decay = 1 - alpha"),
    (["teacher.ema_decay=1.5"], "teacher.ema_decay=1.5: must lie in"),
    (["rollout.temperature=0"], "rollout.temperature=0"),
    (["rollout.top_p=0.9"], "set rollout.top_p=1.0"),
    (["batch_size=0"], "batch_size=0: must be at least 1"),
    (["name=../x"], "name=../x: leaves runs_dir=runs; set runs_dir to the folder that holds the run, and name"),
    (["name=/tmp/x"], "name=/tmp/x: leaves runs_dir=runs"),
    (["name=."], "name=.: leaves runs_dir=runs"),
    (["data.source='C:\\\\data\\\\train.jsonl'"], "train.jsonl: is written as Windows writes paths"),
    (["max_staleness=-1"], "max_staleness=-1"),
    (["num_epochs=0"], "set num_steps or num_epochs above 0"),
    (["method=sft", "loss.mismatch=SEQUENCE"], "set loss.mismatch=NONE"),
    (["method=cpt", "method.target=TEACHER"], "method.target=TEACHER: has a teacher read the prompt"),
    (["method=offline_distillation", "teacher.weights=EMA"], "teacher.weights=EMA: cannot have sampled before"),
    (["method=reinvoke"], "teacher.path"),
    (["method=sdtf"], "sdtf"),
    (["stages=[facts,tools]", "teacher.weights=FROZEN"], "set stage_boundary.rebase_teacher=false"),
    (["stages=[facts,tools]", "weights.teacher_ema=RECEIVER"], "weights.teacher_ema=RECEIVER the teacher workers"),
    (["data.max_teacher_prompt_tokens=10"], "data.max_teacher_prompt_tokens=10: is below data.max_prompt_tokens=1024"),
    (["cluster.learner.num_workers=99"], "batch_size=16: leaves some of the 99 learner workers without a sample"),
    (["cluster.rollout.gpus_per_worker=2"], "its roles need 2 GPUs but 1 x 0 are declared"),
    (["cluster.learner.gpus_per_worker=2", "cluster.gpus_per_node=2"], "one DeepSpeed rank"),
    (["loss.divergence=KL"], "loss.divergence"),
    (["data=jsonl"], "data.source=: names no data; set it to a file"),
    (["model=custom"], "model.path=: names no model"),
    (["+evaluation.sets.mine.match=CHOICE"], "missing mandatory value: source"),
    (
        ["+evaluation.sets.mine.source=a.jsonl", "+evaluation.sets.mine.macth=CHOICE"],
        "evaluation.sets.mine.macth=CHOICE: there is no such setting; the nearest is evaluation.sets.mine.match",
    ),
    (["harness.tasks=[humaneval]"], "set harness.allow_code_execution=true"),
    (["harness.limit=-1"], "harness.limit=-1: must be at least 0"),
    (["learner.precision=BFLOAT16", "learner.zero_stage=0"], "set learner.zero_stage=1 or more"),
    (["teacher.path=other"], "set teacher.weights=FROZEN"),
    (
        ["cluster.learner.num_workers=2", "cluster.learner.gpus_per_worker=0.5", "cluster.gpus_per_node=1"],
        "NCCL refuses",
    ),
]


@pytest.mark.parametrize(
    ("overrides", "message"), BAD, ids=lambda value: str(value[0]) if isinstance(value, list) else ""
)
def test_a_wrong_value_is_refused_with_key_value_and_remedy(overrides: list[str], message: str) -> None:
    with pytest.raises(Exception, match=re.escape(message)):
        compose_with("+cluster=local", *overrides)


def test_an_evaluation_set_is_named_with_its_source_or_with_settings_of_its_own() -> None:
    cfg = compose_with(
        "+cluster=local", "data=tools", "+evaluation.sets.mine=my.jsonl", "+evaluation.sets.choice.source=other.jsonl",
        "+evaluation.sets.choice.match=CHOICE", "+evaluation.sets.tools.num_questions=3",
    )  # fmt: skip
    sets = cfg.evaluation.named_sets()
    assert {name: (of_set.source, of_set.match.name, of_set.max_new_tokens) for name, of_set in sets.items()} == {
        "tools": ("builtin:tools:test", "TOOL_CALL", 64),
        "mine": ("my.jsonl", "CONTAINS", 32),
        "choice": ("other.jsonl", "CHOICE", 32),
    }
    assert sets["tools"].num_questions == 3


def test_without_a_cluster_the_message_lists_them() -> None:
    with pytest.raises(
        SdftError, match=r"add \+cluster=NAME with one of: 1x24GB, 1x40GB, 1xH100, 2x8xH100, 4x8xH100, 8xA100, local"
    ):
        compose_with()


def test_a_misspelt_key_is_refused_in_full() -> None:
    with pytest.raises(Exception, match="learnin_rate"):
        compose_with("+cluster=local", "learner.learnin_rate=1")


def keys_of(settings: Any, prefix: str = "") -> set[str]:
    keys = set()
    for name in settings.__dataclass_fields__:
        keys.add(prefix + name)
        value = getattr(settings, name)
        if hasattr(value, "__dataclass_fields__"):
            keys |= keys_of(value, f"{prefix}{name}.")
    return keys


GENERATED = ROOT / "docs" / "settings.md"
# What pages name besides settings: `key` in examples, and names of the shell completion, of sbatch, of this project's
# own tools, and of vLLM, numpy and torch.
OF_OTHERS = {
    "id",  # of docker, as the next
    "size",
    "gpus",  # of a line in a hosts file, as the next
    "address",
    "key",
    "device",
    "kernel.yama.ptrace_scope",
    "vllm",
    "install",
    "signal",
    "gres",
    "threads",
    "minutes",
    "head_dtype",
    "allow_pickle",
    "weights_only",
}
# Mappings whose keys are those of the data or the chat template.
OPEN = ("evaluation.sets.", "data.mix.", "data.filter.", "model.template_switches.", "teacher.template_switches.")


@cache
def known_names() -> set[str]:
    """Every setting, every folder of presets, and every column of rows."""
    settings = keys_of(compose_with("+cluster=local"))
    return settings | {path.parent.name for path in FILES} | {f"data.columns.{key}" for key in (*KEYS, *LOST)}


@pytest.mark.parametrize(
    "page", sorted({ROOT / "README.md", *ROOT.glob("docs/*.md")} - {GENERATED}), ids=lambda page: page.stem
)
def test_every_key_that_a_page_names_exists(page: Path) -> None:
    """Settings stand in backticks there: `a.b`, `a.b=VALUE` or `name=VALUE`."""
    text = page.read_text()
    sections = {key.partition(".")[0] for key in known_names()}
    named = set(re.findall(r"(?<![\w/.])\+?([a-z_]+(?:\.[a-z_]+)*)=[^\s`]+", text))
    named |= {
        key for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", text)
        if key.partition(".")[0] in sections and not key.endswith((".py", ".json", ".jsonl", ".yaml", ".html"))
    }  # fmt: skip
    unknown = {key for key in named - known_names() - OF_OTHERS if not key.startswith(OPEN)}
    assert not unknown


@pytest.mark.parametrize(("cluster", "precision"), [("8xA100", Precision.BFLOAT16), ("local", Precision.FLOAT32)])
def test_precision_follows_the_machines_unless_it_is_named(cluster: str, precision: Precision) -> None:
    cfg = compose_with(f"+cluster={cluster}")
    assert cfg.model.dtype is cfg.learner.precision is precision
    named = compose_with(f"+cluster={cluster}", "model.dtype=FLOAT32", "learner.precision=BFLOAT16")
    assert (named.model.dtype, named.learner.precision) == (Precision.FLOAT32, Precision.BFLOAT16)


def test_the_run_folder_records_the_precision_and_not_that_it_followed() -> None:
    settings = plain_settings(compose_with("+cluster=8xA100"))
    assert settings["model"]["dtype"] == settings["learner"]["precision"] == "BFLOAT16"


def test_bf16_by_default_on_gpus_without_masters_is_refused() -> None:
    with pytest.raises(SdftError, match=r"learner\.zero_stage=0: .*by default on GPUs.*learner\.precision=FLOAT32"):
        compose_with("+cluster=8xA100", "learner.zero_stage=0")
    compose_with("+cluster=local", "learner.zero_stage=0")


def test_a_payload_has_a_precision_of_its_own() -> None:
    with pytest.raises(SdftError, match=r"teacher\.payload_precision=AUTO: .*choose FLOAT32 or BFLOAT16"):
        compose_with("+cluster=local", "teacher.payload_precision=AUTO")
