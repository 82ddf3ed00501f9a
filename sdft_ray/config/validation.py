"""The checks settings share: each failure names the key, the value and the remedy."""

import math
from collections.abc import Mapping
from pathlib import Path

from sdft_ray.errors import ConfigError

# What a rendering gives a chat template itself, and what says how it is rendered.
RENDERING = (
    "add_generation_prompt",
    "bos_token",
    "chat_template",
    "continue_final_message",
    "conversation",
    "documents",
    "eos_token",
    "max_length",
    "messages",
    "pad_token",
    "padding",
    "raise_exception",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "strftime_now",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
    "unk_token",
)

LABEL_LENGTH = 60  # characters of the text of a template that a message quotes


def require(condition: bool, key: str, value: object, problem: str, remedy: str) -> None:
    """Raises `ConfigError` unless `condition` holds."""
    if not condition:
        raise ConfigError(key, value, problem, remedy)


def at_least(minimum: float, key: str, value: float) -> None:
    """Refuses a number below `minimum`, NaN and infinity."""
    require(value < math.inf or value != value, key, value, "must be a finite number", f"set {key}={minimum} or more")
    require(value >= minimum, key, value, f"must be at least {minimum}", f"set {key}={minimum} or more")


def positive(key: str, value: float) -> None:
    """Refuses zero, negative and non-finite numbers."""
    require(0 < value < math.inf, key, value, "must be a positive number", f"set {key} to a value above 0")


def first_port(key: str, value: int) -> None:
    """Refuses what is not the first of 1000 ports that anybody may take."""
    is_first = 1024 <= value <= 65536 - 1000
    require(is_first, key, value, "is not the first of 1000 ports", f"set {key} between 1024 and 64536")


def share(key: str, value: float) -> None:
    """Refuses what is not a share of a whole."""
    require(0 <= value <= 1, key, value, "must lie in [0, 1]", f"set {key} between 0 and 1")


def check_switches(key: str, switches: Mapping[str, object]) -> None:
    """Refuses switches of a chat template that would override what a rendering gives it, or are the text of a truth.

    A template takes the text "false" for true, or for neither.
    """
    for name, value in switches.items():
        problem = "is no switch: it is what every rendering sets itself"
        require(name not in RENDERING, f"{key}.{name}", value, problem, "remove it; rows bring messages and tools")
        is_quoted = isinstance(value, str) and value.lower() in ("true", "false")
        problem, remedy = "is a text, which templates take for true", "write it without quotation marks"
        require(not is_quoted, f"{key}.{name}", repr(value), problem, remedy)


def is_template(text: str) -> bool:
    """True when the value of a setting is the text of a Jinja template, and not a name or a path."""
    return any(sign in text for sign in ("{{", "{%", "{#"))


def template_label(template: str) -> str:
    """A template as a person recognises it: its name or path, or the beginning of its text, in one line."""
    line = " ".join(template.split())
    return line if not is_template(template) or len(line) <= LABEL_LENGTH else f"{line[:LABEL_LENGTH]}..."


def read_text(key: str, path: Path) -> str:
    """The text of the file that the setting `key` names.

    Raises:
        ConfigError: the file cannot be read, or is not UTF-8; names the line.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(key, path, f"cannot be read ({error.strerror})", "give a file that can be read") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(key, path, f"line {line} is not UTF-8 ({error.reason})", "save the file as UTF-8") from error
