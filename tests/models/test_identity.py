"""A model is told from others by its weights, its configuration and its vocabulary, wherever its folder lies."""

import json
import shutil
from pathlib import Path

from sdft_ray.models.folder import load_tokenizer
from sdft_ray.models.identity import identity_differences, model_identity
from tests.tiny import make_tiny_model


def identity(folder: Path | str) -> dict:
    return json.loads(json.dumps(model_identity(str(folder), load_tokenizer(str(folder), ""))))


def test_a_moved_copy_is_the_same_and_others_are_told_by_what_differs(tmp_path: Path) -> None:
    saved = identity(make_tiny_model(tmp_path / "model"))
    shutil.copytree(tmp_path / "model", tmp_path / "moved")
    assert identity_differences(saved, identity(tmp_path / "moved")) == []
    assert identity_differences(saved, identity(make_tiny_model(tmp_path / "seed", seed=1))) == [
        "its files hold other weights"
    ]
    config, weights = identity_differences(saved, identity(make_tiny_model(tmp_path / "deep", layers=3)))
    assert "num_hidden_layers is 3 and was 2" in config and weights == "its files hold other weights"


def test_another_vocabulary_is_told_also_where_the_weights_are_the_same(tmp_path: Path) -> None:
    saved = identity(make_tiny_model(tmp_path / "model"))
    path = tmp_path / "model" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = sorted(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(tokenizer))
    assert identity_differences(saved, identity(tmp_path / "model")) == [
        "the vocabulary has as many entries, but others"
    ]
