"""Known shapes are those of the models they are named for, and any other can be described."""

import json
from pathlib import Path

import pytest

from sdft_ray.errors import ConfigError, ModelError
from sdft_ray.planning.shapes import KNOWN_MODELS, known_shape, planned_shape
from tests.planning.composed import plan

BILLIONS = {
    "qwen2.5-0.5b": 0.494,
    "qwen2.5-1.5b": 1.544,
    "qwen2.5-3b": 3.086,
    "qwen2.5-7b": 7.616,
    "qwen2.5-14b": 14.770,
    "qwen2.5-32b": 32.764,
    "qwen2.5-72b": 72.706,
    "qwen3-0.6b": 0.596,
    "qwen3-1.7b": 1.721,
    "qwen3-4b": 4.022,
    "qwen3-8b": 8.191,
    "qwen3-14b": 14.768,
    "qwen3-32b": 32.762,
    "qwen3-30b-a3b": 30.532,
    "llama-3.2-1b": 1.236,
    "llama-3.2-3b": 3.213,
    "llama-3.1-8b": 8.030,
    "llama-3.1-70b": 70.554,
    "smollm2-135m": 0.1345,
    "smollm2-360m": 0.3618,
    "smollm2-1.7b": 1.711,
    "gemma-2-2b": 2.614,
    "gemma-2-9b": 9.242,
    "gemma-2-27b": 27.227,
    "gemma-3-270m": 0.268,
    "gemma-3-1b": 1.000,
    "gemma-3-4b": 3.880,
    "gemma-3-12b": 11.766,
    "gemma-3-27b": 27.009,
}
HALF_A_BILLION = (
    "hidden_size: 896, num_hidden_layers: 24, num_attention_heads: 14, num_key_value_heads: 2, "
    "intermediate_size: 4864, vocab_size: 151936, tie_word_embeddings: true"
)


@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_known_shapes_have_the_parameters_their_makers_name(name: str) -> None:
    assert known_shape(name).num_parameters / 1e9 == pytest.approx(BILLIONS[name], abs=6e-4)


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b", "Qwen2.5-0.5B"])
def test_a_known_model_may_be_named_as_on_a_hub(name: str) -> None:
    assert planned_shape(name) == known_shape("qwen2.5-0.5b")


def test_a_model_is_planned_from_the_path_of_a_config(tmp_path: Path) -> None:
    file = tmp_path / "any-name.json"
    file.write_text(json.dumps({"model_type": "mixtral", "num_hidden_layers": 2}))
    assert plan("+cluster=8xA100", f"plan.model={file}").work.shape.num_layers == 2


def test_a_model_is_planned_from_numbers_on_the_command_line() -> None:
    made = plan("+cluster=8xA100", f"plan.model={{model_type: qwen2, {HALF_A_BILLION}}}")
    assert made.work.shape.num_parameters == known_shape("qwen2.5-0.5b").num_parameters
    json.dumps(made.as_dict())


def test_an_unknown_model_is_refused_with_those_there_are_and_how_to_describe_it() -> None:
    with pytest.raises(
        ConfigError, match="plan.model=gpt: .*choose one of qwen2.5-0.5b.*plan.model='{hidden_size: 896"
    ):
        planned_shape("gpt")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hidden_size": 8}, "lacks num_hidden_layers, num_attention_heads, intermediate_size, vocab_size"),
        ({"model_type": "abacus"}, "plan.model.model_type=abacus: is no model type"),
        (dict.fromkeys(KNOWN_MODELS["qwen2.5-3b"], 8) | {"model_type": "llama", "layers": 3}, "plan.model.layers=3: "),
    ],
)
def test_numbers_that_describe_no_model_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned_shape(keys)


SIZES = {
    "hidden_size": 896,
    "num_hidden_layers": 2,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "vocab_size": 1000,
}


@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("value", ["x", 2.5, True, 0, -1, [0], 10**30])
def test_a_size_that_no_model_could_have_is_refused_by_its_name_at_once(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"plan.model: {key}=.* is no whole number from 1 to"):
        planned_shape({**SIZES, key: value})


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_attention_heads": 13, "num_key_value_heads": 1}, "hidden_size=896 is no multiple"),
        ({"num_key_value_heads": 3}, "num_attention_heads=14 is no multiple"),
        ({"hidden_act": "foo"}, "foo"),
        ({"rope_parameters": 5}, "rope_parameters"),
        ({"dtype": "foo"}, "foo"),
        ({"tie_word_embeddings": "x"}, "tie_word_embeddings"),
    ],
)
def test_values_that_transformers_cannot_build_a_network_of_are_refused(keys: dict[str, object], named: str) -> None:
    with pytest.raises(ModelError, match=f"^plan.model: .*{named}"):
        planned_shape({**SIZES, **keys})
