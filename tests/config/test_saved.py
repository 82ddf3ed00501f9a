from pathlib import Path

import yaml

from sdft_ray.config.saved import CONFIG_FILE, changed_settings, flat_settings, write_settings


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
