"""The pages as a site: each has its place in the navigation, and every link leads somewhere."""

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(rf"{BLOCK.pattern}|`[^`\n]+`", BLOCK.flags)


@cache
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conf", DOCS / "site" / "conf.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_has_one_place_in_the_navigation() -> None:
    named = [page for part in site().NAVIGATION.values() for page in part]
    assert len(set(named)) == len(named)
    beside = {name.removesuffix(".md") for name in site().BESIDE.values()} - {"index"}
    assert set(named) == {page.stem for page in DOCS.glob("*.md")} | beside


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"
    for name in re.findall(r"`(docs/[\w-]+\.\w+)`", page.read_text()):
        assert (ROOT / name).is_file(), f"{page.name} names {name}"


def test_paths_of_pages_become_links_of_the_site_and_code_stays_as_it_is() -> None:
    source = [
        "See `docs/data.md`, [data](docs/data.md) and [rules](../CONTRIBUTING.md).\n\n```\n[x](docs/data.md)\n```\n"
    ]
    site().adapt(None, "runs", source)
    text, code = source[0].split("\n\n")
    assert text == "See [data.md](data.md), [data](data.md) and [rules](contributing.md)."
    assert "(docs/data.md)" in code


def test_what_builds_the_site_is_pinned_and_no_part_of_the_projects_lock() -> None:
    pins = (ROOT / "docker" / "requirements-docs.txt").read_text().splitlines()[1:]
    assert pins and all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in pins)
    lock = "".join((ROOT / "docker" / f"requirements-{kind}.txt").read_text() for kind in ("cpu", "dev"))
    assert not re.search(r"^(sphinx|furo|myst-parser)==", lock, re.MULTILINE)
