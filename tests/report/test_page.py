"""The page in a real browser, and what it says without one."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sdft_ray.config import ReportConfig
from sdft_ray.report.export import BROWSERS, find_browser
from sdft_ray.report.writing import write_report
from tests.report.browser import Tab, open_browser
from tests.report.folders import sample_line, settings_of, staged_run, step_line, trained_run, write_run

needs_browser = pytest.mark.skipif(
    find_browser() is None, reason=f"none of {', '.join(BROWSERS)} is on the PATH; Debian has it as package chromium"
)
ATTACK = "</script><script>window.hacked = true; console.error('hacked')</script><img src=x onerror=alert(1)>"
VOID = {"meta", "link", "br", "img"}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    for method, level in (("sdft", 0.7), ("sft", 0.9)):
        for seed in (0, 1):
            trained_run(root / "runs" / f"{method}-{seed}", method, seed, level=level)
    lines = [step_line(step, learner__divergence_nats=1 / step) for step in (1, 2)]
    samples = [sample_line(1, [ATTACK, " end"], [3.0, 0.1], example=ATTACK)]
    write_run(root / "runs" / "attack", settings_of(ATTACK, 0), lines, samples=samples)
    out = root / "report.html"
    write_report([str(root / "runs" / "*")], ReportConfig(out=str(out)))
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with open_browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


class Balance(HTMLParser):
    """Checks that every element is closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.identifiers: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.identifiers += [value for name, value in attributes if name == "id" and value]
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset") and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_elements_are_balanced_and_identifiers_unique(page: Path) -> None:
    parser = Balance()
    parser.feed(page.read_text())
    assert parser.open == []
    assert len(set(parser.identifiers)) == len(parser.identifiers)


def test_nothing_of_a_run_is_markup(page: Path) -> None:
    text = page.read_text()
    assert "&lt;img src=x" in text
    assert "<img" not in text
    assert text.count("<script>") == 1


def test_the_page_names_no_other_address(page: Path) -> None:
    parser = Balance()
    parser.feed(page.read_text())
    assert [address for address in parser.addresses if not address.startswith(("#", "data:"))] == []
    assert "url(" not in page.read_text() and "@import" not in page.read_text()


def test_only_sections_with_data_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "run", settings_of("sdft", 0), [step_line(1, learner__loss=1.0)])
    out = tmp_path / "page.html"
    write_report([str(tmp_path / "run")], ReportConfig(out=str(out)))
    assert re.findall(r'<section id="([a-z-]+)"', out.read_text()) == ["learning", "settings", "runs"]


@needs_browser
def test_it_renders_without_a_complaint_and_without_the_network(page: Path, browser: Tab) -> None:
    browser.open(page)
    assert browser.run("document.querySelectorAll('main section').length") >= 9
    assert browser.run("window.hacked === undefined")
    shapes = "[...document.querySelectorAll('figure > svg')].every(svg => svg.getBoundingClientRect().height > 60)"
    assert browser.run(shapes)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_of_one_run_shows_its_settings_and_answers_without_overflowing(
    tmp_path: Path, browser: Tab, width: int, dark: bool
) -> None:
    trained_run(tmp_path / "run", "sdft", 0)
    out = tmp_path / "page.html"
    write_report([str(tmp_path / "run")], ReportConfig(out=str(out)))
    browser.open(out, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("document.querySelectorAll('#questions > .tables tbody tr').length") == 40
    assert browser.run("document.querySelector('#settings details').open") is False
    assert browser.complaints == []


@needs_browser
@pytest.mark.parametrize("by_key", [False, True], ids=["by click", "by key"])
def test_tables_sort(page: Path, browser: Tab, by_key: bool) -> None:
    browser.open(page)
    heading = "document.querySelector('#results thead th:nth-child(3)')"
    column = "[...document.querySelectorAll('#results tbody tr')].map(row => row.cells[2].dataset.order ?? null)"
    orders = []
    for expected in ("ascending", "descending"):
        if by_key:
            browser.run(f"{heading}.querySelector('button').focus()")
            browser.press("Enter")
        else:
            browser.run(f"{heading}.querySelector('button').click()")
        assert browser.run(f"{heading}.getAttribute('aria-sort')") == expected
        orders.append(browser.run(column))
    rising = [float(order) for order in orders[0] if order is not None]
    assert rising == sorted(rising) and len(rising) == 2
    assert orders[1][:2] == orders[0][:2][::-1]
    assert orders[0][-1] is None and orders[1][-1] is None  # no value stays last
    assert browser.complaints == []


@needs_browser
def test_paired_comparisons_are_shown_and_sort(page: Path, browser: Tab) -> None:
    browser.open(page)
    captions = browser.run("[...document.querySelectorAll('#paired caption')].map(caption => caption.textContent)")
    assert captions == ["After training, sdft \u2192 arm", "Before \u2192 after training"]
    assert browser.run("document.querySelector('nav a[href=\"#paired\"]').textContent") == "Paired comparison"
    assert browser.run("document.querySelectorAll('#paired tbody tr td .key').length") == 3 + 2 * 3
    browser.run("document.querySelector('#paired thead th:nth-child(3) button').click()")
    orders = browser.run("[...document.querySelector('#paired tbody').rows].map(row => row.cells[2].dataset.order)")
    assert [float(order) for order in orders] == sorted(map(float, orders)) and len(set(orders)) == 3
    assert browser.complaints == []


@needs_browser
def test_a_token_says_its_number(page: Path, browser: Tab) -> None:
    browser.open(page)
    browser.run("document.querySelector('.tokens span').click()")
    assert browser.run("document.querySelector('.readout').textContent").endswith("nats")


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(page: Path, browser: Tab, dark: bool, tmp_path: Path) -> None:
    browser.open(page, width=390, height=844, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    smallest = (
        "Math.min(...[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height))"
    )
    assert browser.run(smallest) >= 10
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(21, 24, 28)" if dark else "rgb(253, 253, 252)")
    browser.picture(tmp_path / "phone.png")
    assert (tmp_path / "phone.png").stat().st_size > 10_000


@needs_browser
def test_charts_have_names_and_descriptions(page: Path, browser: Tab) -> None:
    browser.open(page)
    named = """[...document.querySelectorAll('figure > svg')].every(svg => svg.getAttribute('role') === 'img' &&
        svg.getAttribute('aria-labelledby').split(' ')
            .every(id => document.getElementById(id).textContent.length > 3))"""
    assert browser.run(named)


@needs_browser
def test_stages_render(tmp_path: Path, browser: Tab) -> None:
    for method in ("sdft", "sft"):
        staged_run(tmp_path / "runs" / method, method, 0, ("tooluse", "science"))
    out = tmp_path / "page.html"
    write_report([str(tmp_path / "runs" / "*")], ReportConfig(out=str(out)))
    browser.open(out)
    assert browser.run("document.querySelectorAll('#stages figure').length") == 3
    assert browser.complaints == []
