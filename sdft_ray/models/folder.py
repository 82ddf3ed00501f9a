"""What a model folder says of its network and its tokenizer, read file by file: all but the weights.

Libraries raise whatever their parsers raise for a broken file, without its name. Here each becomes one sentence.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from sdft_ray.config.given_template import GivenTemplate
from sdft_ray.config.validation import is_template, read_text, template_label
from sdft_ray.errors import ConfigError, ModelError

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"

_FAULTS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)

_WORDLESS = (ArithmeticError, AttributeError, LookupError, TypeError)  # say little without their names


class Reading:
    """A context in which what a library raises over a broken file becomes a `ModelError` that names the file."""

    def __init__(self, what: str | Path, remedy: str):
        """Says `remedy` behind the name and the library's words."""
        self._what = what
        self._remedy = remedy

    def __enter__(self) -> None:
        """Begins."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises the `ModelError`; errors of other kinds pass as they are."""
        if isinstance(error, _FAULTS) or kind is Exception:  # the tokenizers library raises plain Exceptions
            words = " ".join(str(error).split()).rstrip(".")
            if "trust_remote_code" in words:
                raise ModelError(
                    f"{self._what}: asks for Python code of its own (auto_map), which is never run here "
                    "(trust_remote_code is off); take a model that transformers itself knows."
                ) from error
            if not words or isinstance(error, _WORDLESS):
                words = f"{type(error).__name__} {words}".strip()
            raise ModelError(f"{self._what}: {words}; {self._remedy}.") from error


def read_config(path: str | Path) -> PreTrainedConfig:
    """The config.json at `path`, or in the folder `path`; of a network with other parts as well the whole.

    Raises:
        ModelError: there is none, or transformers cannot read it; names the file.
    """
    file = Path(path) if Path(path).is_file() else Path(path) / CONFIG_FILE
    if not file.is_file():
        raise ModelError(f"{path}: there is no {CONFIG_FILE}; give a folder that save_pretrained has written.")
    with Reading(file, "give the config.json of a language model that transformers knows"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(file, trust_remote_code=False)
    return config


def without_weights(config: PreTrainedConfig, source: str | Path) -> Any:
    """The network of a config, on the meta device.

    Raises:
        ModelError: transformers cannot build it; names `source`, where the config comes from.
    """
    with Reading(source, "mend that value, or take another model"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def read_generation_config(folder: str | Path) -> GenerationConfig | None:
    """The folder's generation_config.json, if it has one.

    Raises:
        ModelError: it cannot be read; names the file.
    """
    file = Path(folder) / GENERATION_FILE
    if not file.is_file():
        return None
    with Reading(file, "mend the file, or delete it where config.json says the same"):
        return GenerationConfig.from_pretrained(folder)


def load_tokenizer(folder: str, chat_template: str = "") -> PreTrainedTokenizerBase:
    """The folder's tokenizer, with its chat template replaced where one is given.

    Args:
        folder: of a model.
        chat_template: `model.chat_template`: a Jinja template, or the path of a file that holds one.

    Raises:
        ModelError: the folder has no tokenizer, or one that transformers cannot read.
        ConfigError: the file does not exist, or is no UTF-8 text.
    """
    with Reading(f"the tokenizer of {folder}", "save or download it anew (tokenizer.json, tokenizer_config.json)"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    origin = template_label(chat_template)
    if chat_template and not is_template(chat_template):
        path = Path(chat_template).expanduser()
        if not path.is_file():
            problem = "is no file, and no Jinja text with {{ or {% in it"
            raise ConfigError("model.chat_template", chat_template, problem, "give a file or the template itself")
        chat_template = read_text("model.chat_template", path)
    if chat_template:
        tokenizer.chat_template = GivenTemplate(chat_template, f"{origin} (model.chat_template)")
    return tokenizer
