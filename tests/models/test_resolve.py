"""A model's name leads to a folder, and a folder whose parts contradict each other is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.errors import ConfigError, ModelError
from sdft_ray.models.folder import load_tokenizer
from sdft_ray.models.resolve import ModelFacts, check_agreement, check_model, resolve_model, with_stop_token
from tests.tiny import CHAT_TEMPLATE, make_tiny_model

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def model(tmp_path: Path) -> str:
    return make_tiny_model(tmp_path / "model")


def edit(folder: str, name: str, change: Edit) -> None:
    path = Path(folder) / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def check(folder: str, chat_template: str = "") -> ModelFacts:
    return check_model(folder, load_tokenizer(folder, chat_template))


def test_a_folder_is_its_own_resolution(model: str) -> None:
    assert resolve_model(model) == model


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"model\.path={tmp_path}: the folder has no config\.json"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("path", ["./no/such/folder", "owner/name-that-is-not-there"])
def test_a_name_that_is_nowhere_is_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelError, match=rf"model\.path={path}: no such folder, and not found on the hub .*smollm2-135m"
    ):
        resolve_model(path)


def test_the_facts_of_a_model_are_read_from_its_folder(model: str) -> None:
    tokenizer = load_tokenizer(model)
    facts = ModelFacts(vocab_size=384, num_tokens=384, bos_token_id=0, eos_token_ids=(2,), context_length=512)
    assert check_model(model, tokenizer) == facts


def test_padded_rows_of_the_head_are_no_tokens(tmp_path: Path) -> None:
    facts = check(make_tiny_model(tmp_path, vocab=448))
    assert (facts.vocab_size, facts.num_tokens) == (448, 384)


def test_every_token_that_ends_generation_is_known_the_tokenizers_own_first(model: str) -> None:
    edit(model, "generation_config.json", lambda content: content.update(eos_token_id=[3, 1, 2]))
    assert check(model).eos_token_ids == (2, 1, 3)


def test_without_generation_settings_the_config_says_what_ends_a_sequence(model: str) -> None:
    (Path(model) / "generation_config.json").unlink()
    edit(model, "config.json", lambda content: content.update(eos_token_id=[2, 3]))
    assert check(model).eos_token_ids == (2, 3)


def test_a_token_that_ends_demonstrations_becomes_one_that_ends_completions(model: str) -> None:
    tokenizer = load_tokenizer(model)
    facts = check_model(model, tokenizer)
    assert with_stop_token(facts, 2, tokenizer) == facts
    assert with_stop_token(facts, 3, tokenizer).eos_token_ids == (2, 3)
    with pytest.raises(ModelError, match=r"ends a turn with token 70 .*stops at \[2\].*no special token"):
        with_stop_token(facts, 70, tokenizer)


def test_a_chat_template_file_that_is_no_text_is_refused_with_its_line(model: str, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_bytes(b"a\n\xff\xfe")
    with pytest.raises(ConfigError, match=r"model\.chat_template=.*own\.jinja: line 2 is not UTF-8"):
        load_tokenizer(model, str(tmp_path / "own.jinja"))


def test_a_tokenizer_larger_than_the_head_is_refused(model: str) -> None:
    edit(model, "config.json", lambda content: content.update(vocab_size=300))
    with pytest.raises(ModelError, match="the tokenizer has 384 tokens but the head only 300 rows"):
        check(model)


def test_a_missing_chat_template_is_refused_unless_one_is_given(model: str, tmp_path: Path) -> None:
    (Path(model) / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"no chat template; set model\.chat_template"):
        check(model)
    assert check(model, CHAT_TEMPLATE).num_tokens == 384
    (tmp_path / "own.jinja").write_text(CHAT_TEMPLATE)
    assert load_tokenizer(model, str(tmp_path / "own.jinja")).chat_template == CHAT_TEMPLATE


def test_a_missing_chat_template_file_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.chat_template=missing\.jinja: is no file"):
        load_tokenizer(model, "missing.jinja")


def test_a_tokenizer_without_eos_is_refused(model: str) -> None:
    edit(model, "tokenizer_config.json", lambda content: content.pop("eos_token"))
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        check(model)


def test_an_end_of_sequence_that_generation_does_not_stop_at_is_refused(model: str) -> None:
    edit(model, "generation_config.json", lambda content: content.update(eos_token_id=[1, 3]))
    with pytest.raises(ModelError, match=r"ends sequences with token 2, generation with \[1, 3\]; set eos_token_id"):
        check(model)


def test_beginnings_of_sequence_that_differ_are_refused(model: str) -> None:
    edit(model, "generation_config.json", lambda content: content.update(bos_token_id=1))
    with pytest.raises(ModelError, match="begin with token 0 for the tokenizer and with 1 for the network"):
        check(model)


def test_a_model_agrees_with_another_of_its_family(model: str, tmp_path: Path) -> None:
    check_agreement(model, make_tiny_model(tmp_path / "larger", hidden=128, layers=3, seed=1))


def test_everything_two_models_differ_in_is_listed(model: str, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "other", vocab=448)
    (Path(other) / "chat_template.jinja").write_text("{{ bos_token }}" + CHAT_TEMPLATE)
    edit(other, "generation_config.json", lambda content: content.update(eos_token_id=[2, 3]))
    edit(other, "tokenizer.json", lambda content: _swap(content["model"]["vocab"], "a", "b"))
    with pytest.raises(ModelError) as caught:
        check_agreement(model, other)
    for words in (
        "rows of the head: 384 against 448",
        "EOS tokens: (2,) against (2, 3)",
        "the chat template",
        "the ids of 2 tokens, such as 'a'",
    ):
        assert words in str(caught.value)
    with pytest.raises(ModelError) as caught:
        check_agreement(model, other, CHAT_TEMPLATE)
    assert "the chat template" not in str(caught.value)


def _swap(vocabulary: dict[str, int], left: str, right: str) -> None:
    vocabulary[left], vocabulary[right] = vocabulary[right], vocabulary[left]
