from pathlib import Path

from sdft_ray.config import RunConfig
from sdft_ray.config.reference import page, sections

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def test_every_setting_is_listed_with_its_default() -> None:
    settings = {setting.key: setting for section in sections(RunConfig) for setting in section.settings}
    assert settings["learner.zero_stage"].default == "2"
    assert settings["teacher.payload"].default == "HIDDEN"
    assert "HIDDEN | LOGITS | TOPK" in settings["teacher.payload"].kind
    assert settings["evaluation.judge.max_retries"].meaning


def test_the_page_of_the_settings_is_todays() -> None:
    assert PAGE.read_text() == page(), "run: python -m sdft_ray.config.reference > docs/settings.md"
