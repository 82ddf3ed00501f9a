import random
from pathlib import Path

import pytest
import yaml

from sdft_ray.config import ClusterConfig, RunConfig
from sdft_ray.config.saved import CONFIG_FILE, changed_settings, flat_settings, plain_settings, write_settings
from sdft_ray.errors import CheckpointError


def test_settings_are_read_back_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    settings = {"seed": 0, "learner": {"zero_stage": 2}, "a": []}
    write_settings(tmp_path, settings)
    read = yaml.safe_load((tmp_path / CONFIG_FILE).read_text())
    assert read == settings and list(read) == list(settings)


def test_nested_settings_have_full_keys_and_lists_stay_whole() -> None:
    nested = {"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": None, "empty": {}}
    assert flat_settings(nested) == {"a.b.c": 1, "a.d": [1, {"e": 2}], "f": None}


def test_changed_settings_are_named_with_the_value_the_folder_holds(tmp_path: Path) -> None:
    write_settings(tmp_path, {"seed": 0, "resume": "never", "learner": {"zero_stage": 2, "schedule": "COSINE"}})
    now = {"seed": 0, "resume": "auto", "learner": {"zero_stage": 3, "schedule": "COSINE"}, "new": 1}
    assert changed_settings(tmp_path, now) == {"learner.zero_stage": 2, "new": None}
    assert changed_settings(tmp_path / "nowhere", now) == {}


def test_a_setting_that_is_gone_has_changed(tmp_path: Path) -> None:
    write_settings(tmp_path, {"data": {"filter": {"lang": "en"}, "columns": {}}})
    assert changed_settings(tmp_path, {"data": {"filter": {}, "columns": {}}}) == {"data.filter.lang": "en"}


def test_whatever_bytes_the_settings_of_a_folder_are_they_are_refused_or_read(tmp_path: Path) -> None:
    """Drawn with a seed: bits, cuts and rubbish in settings as a run writes them."""
    generator = random.Random(0)
    write_settings(tmp_path, plain_settings(RunConfig(cluster=ClusterConfig(name="here"))))
    whole = (tmp_path / CONFIG_FILE).read_bytes()
    num_refused = 0
    for _ in range(100):
        content = bytearray(whole)
        place = generator.randrange(len(content))
        content[place] ^= 1 << generator.randrange(8)
        if generator.random() < 0.5:
            content[place : place + 9] = generator.randbytes(generator.randrange(9))
        (tmp_path / CONFIG_FILE).write_bytes(content)
        try:
            changed_settings(tmp_path, {"seed": 0})
        except CheckpointError:
            num_refused += 1
    assert num_refused > 10


@pytest.mark.parametrize("content", ["", "7", "[1]", "a: 2001-99-99", "{" * 9999, "a: !!python/object:os.system x"])
def test_settings_that_are_none_are_refused_by_their_file(tmp_path: Path, content: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=rf"{CONFIG_FILE} is damaged \("):
        changed_settings(tmp_path, {})
