"""A model folder held against what a run asks of it, before anything starts: its weights, and their attention.

The network is built without memory, on the meta device, and transformers itself loads tensors without values into it.
So renamings, merged experts, tied heads, and tensors that a network of transformers leaves out on purpose
(`_keys_to_ignore_on_load_unexpected`) count as they do where a worker loads. Only the headers of the files are read.
"""

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, AutoModelForCausalLM
from transformers.utils import logging

from sdft_ray.errors import ConfigError, ModelError, first_line
from sdft_ray.models.folder import Reading, read_config
from sdft_ray.models.network import PLAIN, WEIGHTS_FILE, check_finite

WEIGHTS = (WEIGHTS_FILE, "pytorch_model.bin")  # what transformers looks for, in this order; or an index of several
ANEW = "download or copy the model anew"
# How a configuration shows that no network can be built from it.
CANNOT_BUILD = (ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError)
CANNOT_READ = (OSError, EOFError, ValueError, RuntimeError, pickle.UnpicklingError)
LEFT_TO_WORKERS = ("flash", "/")  # implementations of a package for GPUs, or of the hub


def check_folder(key: str, path: str, folder: str) -> None:
    """Refuses a folder whose weights are not those of the network that its config.json describes.

    Args:
        key: the setting that names the model, such as model.path.
        path: its value.
        folder: from `resolve_model`.

    Raises:
        ModelError: no weights, an unreadable file, or tensors that are missing, too many, or of another shape.
    """
    named = f"{key}={path}"
    held = {name: tensor for file in weight_files(named, folder) for name, tensor in _tensors(named, file, "meta")}
    config = read_config(folder)
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None:
        raise ModelError(
            f"{named}: model_type={config.model_type} is no language model that transformers can build; take another."
        )
    if getattr(config, "quantization_config", None) is not None:
        return  # which tensors there are is the quantizer's matter
    try:
        with _silent():
            _, loaded = kind.from_pretrained(
                None,
                config=config if isinstance(config, kind.config_class) else config.get_text_config(),
                state_dict=held,
                device_map={"": "meta"},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except CANNOT_BUILD as error:
        raise ModelError(
            f"{named}: {kind.__name__} cannot be built from config.json and filled from the weights beside it: "
            f"{first_line(error)}; take the config.json that was saved with these weights."
        ) from error
    _refuse_differences(named, folder, f"{kind.__name__} (model_type={config.model_type})", loaded)


def check_trainable(path: str, folder: str) -> None:
    """Refuses a quantised network as the student, with an adapter or without.

    Args:
        path: `model.path`.
        folder: from `resolve_model`.

    Raises:
        ConfigError: names the kind of quantisation.
    """
    quantisation = getattr(read_config(folder), "quantization_config", None)
    if quantisation is not None:
        raise ConfigError(
            "model.path",
            path,
            f"is quantised (quant_method={quantisation.get('quant_method', 'not named')}), and what is trained, all "
            "weights or an adapter beside them, is not: neither engines nor exported models could take it over",
            "take the model as it was before it was quantised",
        )


def check_attention(folder: str, attention: str, *, on_gpu: bool) -> None:
    """Refuses a `model.attention` that there is not, or not for this network.

    Args:
        folder: from `resolve_model`.
        attention: `model.attention`.
        on_gpu: whether workers compute with it on GPUs, whose kernels this machine may lack.

    Raises:
        ConfigError: names what there is.
    """
    config = read_config(folder)
    there_are = sorted({PLAIN, *AttentionInterface().valid_keys()})
    if attention not in there_are and "/" not in attention:
        plain = ", ".join(name for name in there_are if "|" not in name)
        raise ConfigError("model.attention", attention, "there is no such implementation", f"take one of {plain}")
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if not kind._can_set_attn_implementation() or (on_gpu and any(sign in attention for sign in LEFT_TO_WORKERS)):
        return
    try:
        with _silent(), torch.device("meta"):
            AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    except (ValueError, ImportError) as error:
        problem = f"{kind.__name__} cannot compute it ({first_line(error).rstrip('.')})"
        raise ConfigError("model.attention", attention, problem, "set model.attention=packed") from error


def check_values(key: str, path: str, folder: str) -> None:
    """Reads all weights of a folder that no learner loads, which would look at them itself.

    Raises:
        ModelError: a tensor holds NaN or infinite values.
    """
    named = f"{key}={path}"
    for file in weight_files(named, folder):
        check_finite(f"{named}: {file.name}", _tensors(named, file, "cpu"))


def weight_files(named: str, folder: str) -> list[Path]:
    """The files from which transformers loads a folder's weights.

    Raises:
        ModelError: there is none, or one of those that the index names is not there.
    """
    for name in WEIGHTS:
        file = Path(folder) / name
        if file.is_file():
            return [file]
        index = file.with_name(f"{name}.index.json")
        if index.is_file():
            with Reading(f"{named}: {index.name}", ANEW):
                files = [
                    file.with_name(part) for part in sorted(set(json.loads(index.read_text())["weight_map"].values()))
                ]
            absent = [part.name for part in files if not part.is_file()]
            if absent:
                raise ModelError(
                    f"{named}: {len(absent)} of {len(files)} weight files are not there, such as {absent[0]}; {ANEW}."
                )
            return files
    raise ModelError(
        f"{named}: the folder holds no weights, neither {WEIGHTS[0]} nor {WEIGHTS[1]}, nor an index of several; "
        f"{ANEW}, or save it with save_pretrained."
    )


def _tensors(named: str, file: Path, device: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a file by name; on the meta device without their values, which are not read then.

    Raises:
        ModelError: the file is cut off, or no such file at all.
    """
    try:
        if file.suffix == ".bin":
            in_zip = zipfile.is_zipfile(file)  # others cannot be mapped
            loaded = torch.load(file, map_location=device, mmap=in_zip, weights_only=True)
            if not isinstance(loaded, dict):
                raise ValueError(f"it holds a {type(loaded).__name__}, no tensors by name")
            yield from loaded.items()
            return
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no dictionary
                if device == "meta":
                    yield name, torch.empty(tensors.get_slice(name).get_shape(), device=device)
                else:
                    yield name, tensors.get_tensor(name)
    except (SafetensorError, *CANNOT_READ) as error:
        size = file.stat().st_size
        raise ModelError(
            f"{named}: {file.name} ({size} bytes) cannot be read ({first_line(error)}), so it is cut off or no such "
            f"file; {ANEW}."
        ) from error


def _refuse_differences(named: str, folder: str, network: str, loaded: Mapping[str, Any]) -> None:
    """Raises `ModelError` unless the tensors of the folder are those of the network, each of its shape."""
    missing, surplus = sorted(loaded["missing_keys"]), sorted(loaded["unexpected_keys"])
    other_shapes = sorted(loaded["mismatched_keys"])
    differences = []
    if missing:
        differences.append(f"{len(missing)} parameters of the network are not there, such as {missing[0]}")
    if other_shapes:
        name, in_folder, in_network = other_shapes[0]
        differences.append(
            f"{len(other_shapes)} have another shape, such as {name} with {list(in_folder)} in the folder and "
            f"{list(in_network)} in the network"
        )
    if surplus:
        differences.append(f"{len(surplus)} tensors of the folder have no place in it, such as {surplus[0]}")
    if not differences:
        return
    remedy = "take the config.json that was saved with these weights"
    if missing or other_shapes:
        remedy += f", or {ANEW}"
    else:
        remedy += (
            ", and merge an adapter first. Nothing is left out in silence: where that is meant, do it with "
            f"AutoModelForCausalLM.from_pretrained('{folder}').save_pretrained(NEW_FOLDER)"
        )
    raise ModelError(
        f"{named}: the weights are not those of {network}, which config.json describes: "
        f"{'; '.join(differences)}; {remedy}."
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Transformers prints a bar and a table of what it loads; what they say is in the error, if there is one."""
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()
