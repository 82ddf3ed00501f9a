"""An exported folder is the student, in every way that its users look at."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from sdft_ray.config import ModelConfig, Precision
from sdft_ray.errors import ModelError
from sdft_ray.examples import GuardRow
from sdft_ray.learner.export import UNVERIFIED_FILE, export_gap, export_student, full_state
from sdft_ray.learner.scoring import network_logits
from sdft_ray.models.network import load_network
from sdft_ray.models.state import saved_buffers
from sdft_ray.weights.fragments import Fragment
from tests.buffered import FAMILIES, make_buffered
from tests.weights.publications import fragments_of, shapes_of

ROWS = [
    GuardRow(prompt_tokens=(1, 5, 9, 12), completion_tokens=(7, 8, 2)),
    GuardRow(prompt_tokens=(1, 6), completion_tokens=(11, 20, 21, 2)),
]
NUM_TOKENS = 50
GENERATION = '{"temperature": 0.6, "top_p": 0.9, "do_sample": false, "eos_token_id": [2, 3]}\n'  # refused when saved


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def make_student(tmp_path: Path) -> Any:
    """Loads a network as the learner does and trains every parameter a little."""

    def make(family: str) -> tuple[Any, Path]:
        source = tmp_path / "source"
        make_buffered(family).save_pretrained(source)
        (source / "generation_config.json").write_text(GENERATION)
        model = ModelConfig(path=str(source), dtype=Precision.FLOAT32, attention="sdpa")
        network = load_network(str(source), Precision.FLOAT32, model)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        return network, source

    return make


def state_of(network: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    def fragments() -> Iterator[Fragment]:
        return fragments_of(network)

    return full_state(shapes_of(network), fragments, saved_buffers(network), dtype, torch.device("cpu"))


def export(network: Any, source: Path, folder: Path, leave_out: tuple[str, ...] = ()) -> float:
    state = state_of(network, torch.float32)
    state = {name: value for name, value in state.items() if name not in leave_out}
    export_student(network, state, folder, source, Precision.FLOAT32)
    model = ModelConfig(path=str(folder), dtype=Precision.FLOAT32, attention="sdpa")
    loaded = load_network(str(folder), Precision.FLOAT32, model)
    return export_gap(loaded, ROWS, network_logits(network, ROWS, NUM_TOKENS))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_computes_the_students_logits_only_with_its_buffers(
    make_student: Any, tmp_path: Path, family: str
) -> None:
    network, source = make_student(family)
    assert export(network, source, tmp_path / "whole") < 1e-6
    names = tuple(saved_buffers(network))
    with pytest.raises(ModelError, match=f"holds no weights for {len(names)} parameters.*{names[0]}"):
        export(network, source, tmp_path / "parameters", names)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_with_other_buffers_computes_other_logits(make_student: Any, tmp_path: Path, family: str) -> None:
    network, source = make_student(family)
    logits = network_logits(network, ROWS, NUM_TOKENS)
    for buffer in saved_buffers(network).values():
        buffer.mul_(-3.0)
    export(network, source, tmp_path / "model")
    model = ModelConfig(path=str(tmp_path / "model"), dtype=Precision.FLOAT32, attention="sdpa")
    assert export_gap(load_network(str(tmp_path / "model"), Precision.FLOAT32, model), ROWS, logits) > 1e-2


def test_buffers_are_exported_in_their_own_dtype(make_student: Any) -> None:
    network, _ = make_student("deepseek_v3")
    state = state_of(network, torch.bfloat16)
    dtypes = {name: value.dtype for name, value in state.items()}
    assert dtypes.pop("model.layers.1.mlp.gate.e_score_correction_bias") is torch.float32
    assert set(dtypes.values()) == {torch.bfloat16}


def test_settings_are_exported_as_they_came_and_files_are_readable(make_student: Any, tmp_path: Path) -> None:
    network, source = make_student("deepseek_v3")
    before = os.umask(0o022)
    export(network, source, tmp_path / "model")
    os.umask(before)
    written = {path.name: path for path in (tmp_path / "model").iterdir()}
    assert json.loads(written["config.json"].read_text())["use_cache"] is True
    assert network.config.use_cache is False, "the student itself goes on without a cache"
    assert written["generation_config.json"].read_text() == GENERATION
    assert {stat.S_IMODE(path.stat().st_mode) for path in written.values()} == {0o644}
    assert UNVERIFIED_FILE in written
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert all(torch.equal(value, network.get_parameter(name)) for name, value in loaded.named_parameters())
