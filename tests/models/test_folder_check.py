"""A model folder that a run could not use is refused from its files alone, with the tensor, the file or the value."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import is_flash_attn_2_available

from sdft_ray.config import ModelConfig, Precision
from sdft_ray.errors import ConfigError, ModelError
from sdft_ray.models.folder_check import check_attention, check_folder, check_values
from sdft_ray.models.network import check_finite, load_network
from tests.models.families import FAMILIES, SIZES, Family

FILE = "model.safetensors"


def saved(family: str, folder: Path, **settings: Any) -> Path:
    config = next(each for each in FAMILIES if each.name == family).config()
    for name, value in settings.items():
        setattr(config, name, value)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return saved("llama", tmp_path / "llama")


def check(folder: Path, key: str = "model.path") -> None:
    check_folder(key, "mine", str(folder))


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / FILE)
    edit(tensors)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def configure(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda each: each.name)
def test_what_transformers_saves_of_every_family_passes(family: Family, tmp_path: Path) -> None:
    family.network("eager").save_pretrained(tmp_path)
    check(tmp_path)


@pytest.mark.parametrize(
    "name", ["model.layers.2.mlp.up_proj.weight", "base_model.model.layers.0.q_proj.lora_A.weight", "v_head.weight"]
)
def test_tensors_that_the_network_has_no_place_for_are_refused(llama: Path, name: str) -> None:
    change(llama, lambda tensors: tensors.update({name: torch.zeros(4)}))
    with pytest.raises(
        ModelError, match=rf"^model\.path=mine: .*1 tensors of the folder have no place.*{name}.*NEW_FOL"
    ):
        check(llama)


def test_a_network_of_fewer_layers_than_the_weights_is_refused(llama: Path) -> None:
    configure(llama, num_hidden_layers=1, layer_types=None)
    with pytest.raises(ModelError, match=r"LlamaForCausalLM.*9 tensors of the folder have no place in it.*layers\.1\."):
        check(llama)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("deepseek_v3", "model.layers.61.mlp.up_proj.weight"),
        ("qwen3_next", "mtp.layers.0.mlp.up_proj.weight"),
    ],
)
def test_what_transformers_leaves_out_on_purpose_passes(tmp_path: Path, family: str, name: str) -> None:
    saved(family, tmp_path)
    change(tmp_path, lambda tensors: tensors.update({name: torch.zeros(4)}))
    check(tmp_path)


VISION = {
    "qwen3_5": {"depth": 1, "num_heads": 2, "out_hidden_size": 64, "num_position_embeddings": 16},
    "gemma3": {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}


@pytest.mark.parametrize(("family", "text"), [("qwen3_5", "qwen3_5_text"), ("gemma3", "gemma3_text")])
def test_a_folder_that_holds_an_image_model_besides_passes(tmp_path: Path, family: str, text: str) -> None:
    """Transformers loads the language model of the one without the rest, and the other as a whole."""
    language = next(each for each in FAMILIES if each.name == text).config().to_dict()
    vision = {"hidden_size": 32, "intermediate_size": 32, **VISION[family]}
    config = CONFIG_MAPPING[family](text_config=language, vision_config=vision)
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    check(tmp_path)
    check_attention(str(tmp_path), "packed", on_gpu=False)


def test_a_tied_head_passes_whether_it_is_in_the_file_or_not(tmp_path: Path) -> None:
    saved("llama", tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / FILE)
    check(tmp_path)
    change(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    check(tmp_path)


@pytest.mark.parametrize(
    ("weights", "config", "network", "differences"),
    [
        ("qwen2", "llama", "LlamaForCausalLM", ["6 tensors of the folder have no place", "0.self_attn.k_proj.bias"]),
        (
            "llama",
            "qwen2",
            "Qwen2ForCausalLM",
            ["6 parameters of the network are not there", "0.self_attn.k_proj.bias"],
        ),
        ("llama", "gpt2", "GPT2LMHeadModel", ["parameters of the network are not there", "have no place in it"]),
    ],
)
def test_another_familys_configuration_is_named_with_what_does_not_fit(
    tmp_path: Path, weights: str, config: str, network: str, differences: list[str]
) -> None:
    folder, other = saved(weights, tmp_path / weights), saved(config, tmp_path / config)
    (folder / "config.json").write_bytes((other / "config.json").read_bytes())
    with pytest.raises(ModelError) as caught:
        check(folder, "teacher.path")
    said = (
        f"teacher.path=mine: the weights are not those of {network} (model_type={config}), which config.json describes"
    )
    for words in (said, *differences, "take the config.json that was saved with these weights"):
        assert words in str(caught.value)


def test_a_shape_that_the_configuration_contradicts_is_named_with_both(llama: Path) -> None:
    configure(llama, intermediate_size=80)
    name = r"model\.layers\.0\.mlp\.down_proj\.weight with \[64, 96\] in the folder and \[64, 80\] in the network"
    with pytest.raises(ModelError, match=rf"6 have another shape, such as {name}"):
        check(llama)


def test_experts_that_the_configuration_contradicts_are_refused(tmp_path: Path) -> None:
    saved("qwen3_moe", tmp_path)
    configure(tmp_path, num_experts=8, num_local_experts=8)
    with pytest.raises(ModelError, match=r"Qwen3MoeForCausalLM.*another shape.*\[4, .*in the folder and \[8, "):
        check(tmp_path)


def test_a_folder_without_weights_is_refused(llama: Path) -> None:
    (llama / FILE).unlink()
    with pytest.raises(ModelError, match=r"model\.path=mine: the folder holds no weights, neither model\.safetensors"):
        check(llama)


@pytest.mark.parametrize("size", [0, 4, 5000, -9])
def test_a_file_that_is_cut_off_is_named(llama: Path, size: int) -> None:
    content = (llama / FILE).read_bytes()
    (llama / FILE).write_bytes(content[:size])
    with pytest.raises(ModelError, match=r"model\.path=mine: model\.safetensors \(\d+ bytes\) cannot be read.*cut off"):
        check(llama)


def test_one_of_several_files_that_is_not_there_is_named(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path, max_shard_size="50KB")
    check(tmp_path)
    (gone := sorted(tmp_path.glob("*.safetensors"))[1]).unlink()
    with pytest.raises(ModelError, match=rf"1 of \d+ weight files are not there, such as {gone.name}"):
        check(tmp_path)


def test_weights_of_older_files_pass_and_are_refused_where_they_are_cut_off(llama: Path) -> None:
    torch.save(load_file(llama / FILE), llama / "pytorch_model.bin")
    (llama / FILE).unlink()
    check(llama)
    (llama / "pytorch_model.bin").write_bytes((llama / "pytorch_model.bin").read_bytes()[:-900])
    with pytest.raises(ModelError, match=r"pytorch_model\.bin \(\d+ bytes\) cannot be read"):
        check(llama)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_named_by_whoever_loads_it(llama: Path, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value

    change(llama, spoil)
    check(llama)  # reads no values
    with pytest.raises(ModelError, match=r"mine: model\.safetensors: model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        check_values("model.path", "mine", str(llama))
    for precision in (Precision.FLOAT32, Precision.BFLOAT16):
        with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN or infinite"):
            load_network(str(llama), precision, ModelConfig(path=str(llama)))


@pytest.mark.parametrize("content", ['{"weight_map": {', "{}", "[]"])
def test_a_broken_index_is_refused_by_its_name(llama: Path, content: str) -> None:
    (llama / "model.safetensors").unlink()
    (llama / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"mine: model\.safetensors\.index\.json: .*download or copy the model anew"):
        check(llama)


def test_the_part_of_a_parameter_that_is_on_a_rank_is_looked_at_and_an_empty_one_passes() -> None:
    check_finite("mine", [("weight", torch.nn.Parameter(torch.empty(0)))])  # as ZeRO 3 leaves it
    with pytest.raises(ModelError, match="weight holds NaN"):
        check_finite("mine", [("weight", torch.tensor([1.0, float("nan")]))])


def test_an_attention_that_there_is_not_is_refused_with_those_there_are(llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.attention=foo: .*take one of eager, .*packed, sdpa\."):
        check_attention(str(llama), "foo", on_gpu=False)
    for attention in ("packed", "sdpa", "eager"):
        check_attention(str(llama), attention, on_gpu=False)


@pytest.mark.skipif(is_flash_attn_2_available(), reason="the package is installed")
def test_an_attention_whose_package_is_not_installed_is_refused_where_it_would_compute(llama: Path) -> None:
    name = "flash_attention_2"
    check_attention(str(llama), name, on_gpu=True)  # this machine need not have what workers have
    with pytest.raises(ConfigError, match=rf"^model\.attention={name}: .*installed.*set model\.attention=packed"):
        check_attention(str(llama), name, on_gpu=False)
    with pytest.raises(ConfigError, match=rf"^model\.attention={name}: .*installed; set model\.attention=packed"):
        load_network(str(llama), Precision.BFLOAT16, ModelConfig(path=str(llama), attention=name))


def test_an_attention_that_the_network_does_not_have_is_refused(tmp_path: Path) -> None:
    saved("gpt_oss", tmp_path)
    with pytest.raises(ConfigError, match=r"model\.attention=sdpa: GptOssForCausalLM cannot compute it"):
        check_attention(str(tmp_path), "sdpa", on_gpu=False)


def test_a_network_with_an_attention_of_its_own_leaves_the_setting_alone(tmp_path: Path) -> None:
    saved("rwkv", tmp_path)
    check_attention(str(tmp_path), "packed", on_gpu=False)
