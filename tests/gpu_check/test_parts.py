"""The parts of the check are what there is to check, and each of them says why it cannot be run."""

from pathlib import Path

import pytest

from sdft_ray.config import Channel
from sdft_ray.launch.composing import compose_config
from tests.benchmarks.processes import ROOT
from tests.gpu_check import demo
from tests.gpu_check.parts import PARTS, Part, absent
from tests.gpu_check.runs import RUNS, settings

ON_CPU = [name for name in RUNS if name != "NCCL"]


def test_every_file_of_tests_on_a_gpu_is_a_part() -> None:
    files = {path.name for path in (ROOT / "tests" / "gpu").glob("test_*.py")}
    assert {part.tests for part in PARTS.values() if part.tests} == files


def test_every_other_part_is_runs_of_the_table_or_a_module() -> None:
    assert {run for part in PARTS.values() for run in part.runs} == set(RUNS)
    modules = {name for name, part in PARTS.items() if not part.tests and not part.runs}
    assert all((Path(__file__).parent / f"{name}.py").is_file() for name in modules)


@pytest.mark.parametrize(("name", "device"), [*((name, "cuda") for name in RUNS), *((name, "cpu") for name in ON_CPU)])
def test_settings_of_every_run_compose(name: str, device: str) -> None:
    cfg = compose_config(*settings(name, device, "folder"))
    assert (cfg.cluster.num_gpus > 0) == (device == "cuda")
    assert cfg.cluster.turns == ("turns" in name)
    assert cfg.learner.offload == ("offloaded" in name)
    assert cfg.model.adapter.is_on == ("adapter" in name)
    assert cfg.weights.channel is {
        "NCCL": Channel.NCCL, "shared memory": Channel.SHARED_MEMORY, "object store": Channel.OBJECT_STORE,
    }.get(name, Channel.AUTO)  # fmt: skip


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_settings_of_the_demo_compose(device: str) -> None:
    assert compose_config(*demo.settings(device)).num_steps == demo.NUM_STEPS


def test_a_part_that_cannot_be_run_says_what_is_missing() -> None:
    part = Part("a part", ("torch", "a_package_that_is_not_here"))
    assert absent(part, "cuda", ["a GPU"], "2.13") == "not installed: a_package_that_is_not_here"
    part = Part("a part", ("torch",), num_gpus=2)
    assert absent(part, "cuda", [], "2.13+cpu") == "no GPU (torch 2.13+cpu sees none)"
    assert absent(part, "cuda", ["a GPU"], "2.13") == "needs 2 GPUs, and there is 1"
    assert absent(part, "cuda", ["a GPU", "another"], "2.13") == ""


def test_on_a_cpu_only_parts_that_ask_for_no_gpu_are_run() -> None:
    left_out = {name for name, part in PARTS.items() if absent(part, "cpu", [], "2.13") == "asks for a GPU"}
    assert left_out == {name for name, part in PARTS.items() if part.tests} | {"nccl"}
