"""The page: self-contained, escaped, and readable on a phone, in light and dark."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdft_ray.api import show
from sdft_ray.errors import ConfigError
from sdft_ray.launch.composing import compose_config
from sdft_ray.report.export import find_browser
from tests.report.browser import Tab, open_browser
from tests.tiny import make_tiny_model

needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome on the PATH")
ROW = (
    '{"id": "a<b>", "prompt": "<script>alert(1)</script> <|im_end|>", "demonstration": "https://example.org/'
    + "long/" * 60
    + '"}\n'
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "rows.jsonl").write_text(ROW)
    model = make_tiny_model(folder / "tiny")
    source = f"data.source={folder / 'rows.jsonl'}"
    out = folder / "new" / "show.html"
    show(
        compose_config(
            "+cluster=local", "data=jsonl", source, "model=custom", f"model.path={model}", "show.html=true",
            f"show.out={out}", "data.max_prompt_tokens=20",
        )
    )  # fmt: skip
    shutil.rmtree(model)
    return out


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Tab]:
    with open_browser(tmp_path) as tab:
        yield tab


def test_text_of_the_data_is_escaped_and_special_tokens_are_told_from_it(page: Path) -> None:
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; &lt;|im_end|&gt;" in text
    assert '<span class="token">&lt;|im_end|&gt;</span>' in text
    assert "a&lt;b&gt;" in text


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_asks_for_nothing(page: Path, browser: Tab, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('pre.read').length") == 5
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(21, 24, 28)" if dark else "rgb(253, 253, 252)")
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def test_a_page_that_cannot_be_written_is_refused_with_its_setting(page: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = make_tiny_model(tmp_path / "tiny")
    cfg = compose_config("+cluster=local", "model=custom", f"model.path={model}", "show.html=true")
    cfg.show.out = str(tmp_path / "file" / "show.html")
    with pytest.raises(ConfigError, match=r"show\.out=.*cannot be written"):
        show(cfg)
