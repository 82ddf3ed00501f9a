"""What a library raises over a broken file of a model folder becomes one sentence that names the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.errors import ConfigError, ModelError
from sdft_ray.models.arithmetic import read_shape
from sdft_ray.models.folder import load_tokenizer, read_config, read_generation_config
from tests.tiny import CHAT_TEMPLATE, make_tiny_model

BROKEN = [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe\x00"]
IMPOSSIBLE = [
    b"{}",
    b'{"model_type": "foo"}',
    b'{"model_type": ["llama"]}',
    b'{"model_type": "llama", "hidden_size": "x"}',
    b'{"model_type": "llama", "dtype": "foo"}',
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(make_tiny_model(tmp_path / "model"))


def refused(folder: Path, file: str, content: bytes, read: Callable[[str], Any]) -> str:
    (folder / file).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read(str(folder))
    return str(caught.value)


@pytest.mark.parametrize("content", BROKEN + IMPOSSIBLE)
def test_a_broken_config_is_refused_by_its_name(model: Path, content: bytes) -> None:
    assert str(model / "config.json") in refused(model, "config.json", content, read_config)


@pytest.mark.parametrize(
    ("key", "value"), [("num_hidden_layers", 10**11), ("num_attention_heads", -1), ("vocab_size", 10**30)]
)
def test_a_config_with_a_size_nobody_could_run_is_refused_by_the_size(model: Path, key: str, value: int) -> None:
    content = json.dumps(json.loads((model / "config.json").read_text()) | {key: value})
    assert f"{key}={value} is no whole number" in refused(model, "config.json", content.encode(), read_shape)


@pytest.mark.parametrize("content", BROKEN)
def test_broken_generation_settings_are_refused_by_their_name(model: Path, content: bytes) -> None:
    message = refused(model, "generation_config.json", content, read_generation_config)
    assert str(model / "generation_config.json") in message


BROKEN_TOKENIZERS = [
    ("tokenizer.json", b'{"added_tokens": []}'),
    *((file, content) for file in ("tokenizer.json", "tokenizer_config.json") for content in BROKEN),
]


@pytest.mark.parametrize(("file", "content"), BROKEN_TOKENIZERS)
def test_a_broken_tokenizer_is_refused(model: Path, file: str, content: bytes) -> None:
    assert f"the tokenizer of {model}: " in refused(model, file, content, load_tokenizer)


def test_a_folder_without_a_tokenizer_is_refused(model: Path) -> None:
    (model / "tokenizer_config.json").unlink()
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"save or download it anew \(tokenizer.json"):
        load_tokenizer(str(model))


def test_a_binary_chat_template_of_the_models_own_is_refused(model: Path) -> None:
    assert "can't decode byte" in refused(model, "chat_template.jinja", b"\xff\xfe\x00", load_tokenizer)


@pytest.mark.parametrize("name", ["own.jinja", "own.txt", "own"])
def test_a_chat_template_is_read_from_a_file_of_any_name(model: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(CHAT_TEMPLATE)
    assert load_tokenizer(str(model), str(tmp_path / name)).chat_template == CHAT_TEMPLATE


def test_a_chat_template_that_is_neither_file_nor_jinja_is_refused_by_its_own_key(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.chat_template=missing: is no file, and no Jinja text"):
        load_tokenizer(str(model), "missing")


def test_python_code_of_a_folder_is_never_run_and_said_to_be_off(model: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for name in ("configuration_own", "tokenization_own"):
        (model / f"{name}.py").write_text(f"open({str(ran)!r}, 'w')\n")
    for file, auto_map in (
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_own.Own", None]}),
        ("config.json", {"AutoConfig": "configuration_own.Own"}),
    ):
        settings = json.loads((model / file).read_text()) | {"auto_map": auto_map, "model_type": "own"}
        settings["tokenizer_class"] = "Own"
        (model / file).write_text(json.dumps(settings))
    for read in (lambda: read_config(model), lambda: load_tokenizer(str(model))):
        with pytest.raises(ModelError, match=r"never run here \(trust_remote_code is off\)"):
            read()
    assert not ran.exists()
