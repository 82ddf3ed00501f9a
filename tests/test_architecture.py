"""docs/architecture.md says what is: its rooms, its floors, and the names in its text and pictures."""

import ast
import re
import tomllib
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from sdft_ray.config import RunConfig
from sdft_ray.config.keys import setting_keys
from sdft_ray.tracking.metrics import check_declared

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sdft_ray"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FOREIGN = {"AdamW", "ZeRO", "DeepSpeed"}  # names in pictures that are not this package's


def pictures() -> list[Any]:
    return [draw() for draw in run_path(str(ROOT / "docs" / "site" / "pictures.py"))["PICTURES"]]


def classes() -> set[str]:
    return {
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    }


def rooms() -> set[str]:
    """Packages, with a slash at their end, and modules of the top level, as the page writes them."""
    packages = {f"{path.parent.relative_to(PACKAGE)}/" for path in PACKAGE.glob("*/**/__init__.py")}
    return packages | {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}


def test_every_room_is_named_and_every_named_room_exists() -> None:
    (section,) = re.findall(r"^## Rooms\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([\w/]+(?:/|\.py))`", section)) - {"conf/"}
    assert named == rooms()


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_floors_are_those_of_the_import_contract(page: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert "```\n" + "\n".join(layers) + "\n```" in (ROOT / page).read_text()


def test_every_picture_is_what_its_script_draws_and_stands_on_the_page() -> None:
    for picture in pictures():
        assert picture.path.read_text() == picture.svg(), "run: python docs/site/pictures.py"
        assert f"]({picture.path.name})" in PAGE


def test_every_name_in_a_picture_is_a_class_of_the_package() -> None:
    for picture in pictures():
        words = re.findall(r"<text [^>]*>([^<]+)<", picture.svg())
        named = {name for text in words for name in re.findall(r"\b[A-Z][a-z]+[A-Z]\w*", text)}
        assert not named - FOREIGN - classes(), picture.path.name
    named = set(re.findall(r"`([A-Z][a-z]+\w*)`", PAGE))
    assert len(named) > 15
    assert not named - classes()


def test_a_picture_is_read_in_light_and_in_dark() -> None:
    for picture in pictures():
        light, dark = picture.svg().split("@media (prefers-color-scheme: dark)")
        for kind in ("text", ".lane", ".ground", ".box", ".arrow", ".head"):
            assert f"{kind} {{" in light and f"{kind} {{" in dark


def test_every_setting_and_metric_that_the_page_names_exists() -> None:
    settings, spans = set(setting_keys(RunConfig)), set(re.findall(r"`([^`\n]+)`", PAGE))
    sections = {key.partition(".")[0] for key in settings}
    named = {span.partition("=")[0] for span in spans if re.fullmatch(r"\w+\.\w+(=\w+)?", span)}
    named = {key for key in named if key.partition(".")[0] in sections and not key.endswith(".py")}
    assert named and not named - settings
    metrics = {span for span in spans if re.fullmatch(r"(loop|learner)/\w+", span)}
    check_declared(metrics)
