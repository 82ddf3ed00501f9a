"""What tells a model from any other: its weights, its shape, its vocabulary; and how two models differ."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sdft_ray.models.folder import CONFIG_FILE
from sdft_ray.models.folder_check import weight_files

SAMPLED_BYTES = 2**20  # at each end of a file of weights
MAX_NAMED = 4  # differences of the configuration in one message
# What transformers or whoever saved the folder writes, and what computes nothing.
UNIMPORTANT = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")


def model_identity(folder: str, tokenizer: Any) -> dict[str, Any]:
    """The identity of a local model folder as plain containers, wherever the folder lies."""
    config = json.loads((Path(folder) / CONFIG_FILE).read_text())
    vocabulary = sorted(tokenizer.get_vocab().items())
    return {
        "weights": fingerprint(folder),
        "config": {key: value for key, value in config.items() if key not in UNIMPORTANT},
        "num_tokens": len(vocabulary),
        "vocabulary": hashlib.blake2b(json.dumps(vocabulary).encode(), digest_size=16).hexdigest(),
    }


def identity_differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two identities, a clause each; empty where they are of one model."""
    differences = []
    before, after = saved.get("config", {}), now["config"]
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if keys:
        named = ", ".join(f"{key} is {after.get(key)} and was {before.get(key)}" for key in keys[:MAX_NAMED])
        differences.append(f"in {CONFIG_FILE} {named}" + (", and more" if len(keys) > MAX_NAMED else ""))
    if saved.get("num_tokens") != now["num_tokens"]:
        differences.append(f"the vocabulary has {now['num_tokens']} entries and had {saved.get('num_tokens')}")
    elif saved.get("vocabulary") != now["vocabulary"]:
        differences.append("the vocabulary has as many entries, but others")
    if saved.get("weights") != now["weights"]:
        differences.append("its files hold other weights")
    return differences


def fingerprint(folder: str) -> str:
    """What tells the weights of a model folder from any others, wherever it lies: its files' sizes and ends.

    A safetensors file begins with the names and shapes of its tensors and ends with values.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in weight_files(folder, folder):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as content:
            digest.update(content.read(SAMPLED_BYTES))
            content.seek(max(0, size - SAMPLED_BYTES))
            digest.update(content.read())
    return digest.hexdigest()
