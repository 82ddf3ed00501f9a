"""The fingerprint of a tokenised data set: of all that decides what is in it, so that nothing stale is ever used.

Settings are taken with everything that nobody has named as unrelated, so that a new one counts from its first day.
What a chat template takes from elsewhere, such as the date, shows in what it makes of two fixed examples.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from sdft_ray.config import DataConfig, MethodConfig
from sdft_ray.config.validation import is_template
from sdft_ray.conversation import Message
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import BUILTIN, source_files
from sdft_ray.data.sources import split_source
from sdft_ray.errors import ConfigError, SdftError
from sdft_ray.examples import Example

# What is done with rows once they are token ids, and whether these are kept.
UNRELATED_DATA = ("cache", "max_prompt_tokens", "max_teacher_prompt_tokens", "rehearsal", "shuffle", "too_long")
PACKAGES = ("bm25s", "datasets", "jinja2", "tokenizers", "transformers")
LONGEST_NAME = 1000  # characters of a setting that may be the name of a file
_CODE = Path(__file__).parent
_RECORDS = (_CODE.parent / "conversation.py", _CODE.parent / "examples.py")
_QUESTION = Message(role="user", content="Where is it?")
_PROBES = tuple(
    Example(example_id="", prompt=prompt, demonstration="In the north.", text="It is in the north.")
    for prompt in ((_QUESTION,), (Message(role="system", content="Be brief."), _QUESTION))
)


def fingerprint(data: DataConfig, method: MethodConfig, builder: PromptBuilder) -> str | None:
    """The fingerprint of what `read_rows` makes of these; None of a source that is no file and no folder.

    Raises:
        ConfigError: the source, or a file that a setting names, cannot be read.
    """
    name, split = split_source(data.source, data.split)
    if name.startswith(BUILTIN) or not source_files(name):
        return None
    settings = {
        "data": {key: value for key, value in asdict(data).items() if key not in UNRELATED_DATA},
        "method": [method.completion.name, method.has_teacher],
        "builder": builder.settings,
    }
    parts = {
        "settings": settings,
        "split": split,
        "files": {str(path): _content_digest(path, key) for path, key in sorted(_named_files(settings, name).items())},
        "tokenizer": builder.tokenizer_digest,
        "probes": [_probed(builder, example) for example in _PROBES],
        "code": _code_digest(),
        "packages": [_version(package) for package in PACKAGES],
    }
    text = json.dumps(parts, default=_plain, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _named_files(settings: Mapping[str, Any], source: str) -> dict[Path, str]:
    """The files of the source, and every other that a setting names, each with the key of its setting."""
    files = dict.fromkeys(source_files(source), "data.source")
    for key, value in _texts(settings):
        if key.endswith(".source") and not value.startswith(BUILTIN):
            try:
                named = source_files(split_source(value, "")[0])
            except ConfigError:  # it is read elsewhere, which says what is wrong with it
                continue
        elif 0 < len(value) < LONGEST_NAME and not is_template(value) and Path(value).expanduser().is_file():
            named = [Path(value).expanduser()]
        else:
            continue
        for path in named:
            files.setdefault(path, key.removeprefix("builder."))
    return files


def _texts(settings: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested settings, with the key it stands under."""
    if isinstance(settings, str):
        yield key, settings
    elif isinstance(settings, Mapping):
        for own_key, value in settings.items():
            yield from _texts(value, f"{key}.{own_key}" if key else own_key)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _texts(value, key)


def _probed(builder: PromptBuilder, example: Example) -> list[str]:
    """What the builder makes of an example, errors included."""
    encodings = (builder.student_encoding, builder.teacher_encoding, builder.demonstration_encoding)
    probed = []
    for encoding in encodings:
        try:
            probed.append(str(builder.encoder.run(encoding(example))))
        except (SdftError, ValueError) as error:  # a template may refuse it, or ask for what it lacks
            probed.append(str(error))
    return probed


def _content_digest(path: Path, key: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise ConfigError(key, path, problem, "give a file that can be read") from error


def _version(package: str) -> str | None:
    """None of a package that is not installed, as the one that searches pools may be."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def _code_digest() -> str:
    """Of the modules that read, render and encode, and of those that say what a row is."""
    digest = hashlib.blake2b()
    for path in (*sorted(_CODE.rglob("*.py")), *_RECORDS):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _plain(value: Any) -> str:
    return value.name if isinstance(value, Enum) else str(value)
