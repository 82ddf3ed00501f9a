"""Shapes of models whose files are not here: by name, by the path of a config.json, or by the keys of one."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from transformers import CONFIG_MAPPING, AutoConfig

from sdft_ray.errors import ConfigError
from sdft_ray.models.arithmetic import NetworkShape, check_sizes, read_shape, shape_of
from sdft_ray.models.folder import Reading

KNOWN_MODELS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("known_models.yaml").read_text())
DEFAULT_TYPE = "llama"  # of sizes that name no model_type
REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
VARIANTS = ("-instruct", "-it", "-base", "-chat", "-hf")  # of the same shape


def planned_shape(model: Any) -> NetworkShape:
    """The shape that plan.model describes.

    Args:
        model: the name of a known model, as on a hub or shorter; the path of a config.json or of its folder; or the
            keys of a config.json.

    Raises:
        ConfigError: it is none of these, or keys are missing or unknown to the model type.
        ModelError: the keys or the config.json describe no language model that could be.
    """
    if isinstance(model, Mapping):
        return _shape_of_keys(model)
    name = str(model)
    if Path(name).exists():
        return read_shape(name)
    known = short_name(name)
    if known not in KNOWN_MODELS:
        remedy = (
            f"choose one of {', '.join(KNOWN_MODELS)}; or give the path of a config.json, or its keys: "
            "plan.model='{hidden_size: 896, num_hidden_layers: 24, num_attention_heads: 14, num_key_value_heads: 2, "
            "intermediate_size: 4864, vocab_size: 151936}'"
        )
        raise ConfigError("plan.model", model, "is no file, and no model whose shape is known", remedy)
    return known_shape(known)


def short_name(name: str) -> str:
    """A model's name on a hub without its owner and its variant, in lower case."""
    short = name.rpartition("/")[2].lower().removeprefix("meta-")
    for variant in VARIANTS:
        short = short.removesuffix(variant)
    return short


@cache
def known_shape(name: str) -> NetworkShape:
    """The shape of one of `KNOWN_MODELS`."""
    return _shape_of_keys(KNOWN_MODELS[name])


def _shape_of_keys(given: Mapping[str, Any]) -> NetworkShape:
    """Of a config.json with these keys and the model type's own values for all others."""
    keys = {str(key): value for key, value in given.items()}
    model_type = keys.pop("model_type", DEFAULT_TYPE)
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        remedy = "give one that transformers knows, such as llama or qwen3"
        raise ConfigError("plan.model.model_type", model_type, "is no model type", remedy)
    if missing := [key for key in REQUIRED if key not in keys]:
        remedy = "give the keys of a config.json by their names there"
        raise ConfigError("plan.model", dict(given), f"lacks {', '.join(missing)}", remedy)
    default = AutoConfig.for_model(model_type)
    # Networks read head_dim of any config that has it, declared or not.
    known = {*default.to_dict(), *default.attribute_map, "head_dim"}
    if unknown := [key for key in keys if key not in known]:
        sizes = ", ".join(sorted(key for key in known if key.startswith("num_") or key.endswith(("_size", "_dim"))))
        remedy = f"take the keys of its config.json, such as {sizes}"
        raise ConfigError(f"plan.model.{unknown[0]}", keys[unknown[0]], f"is no key of a {model_type} config", remedy)
    keys.setdefault("pad_token_id", None)  # a model type's own may lie outside another vocabulary
    check_sizes(keys, "plan.model")
    with Reading("plan.model", "give the keys of a config.json with values that it could have"):
        config = AutoConfig.for_model(model_type, **keys)
    return shape_of(config, "plan.model")
