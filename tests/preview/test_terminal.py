"""The terminal shows special tokens in colour where it has colours, and in brackets where it has none."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from sdft_ray.api import show
from sdft_ray.launch.composing import compose_config
from sdft_ray.launch.showing import show_rows
from sdft_ray.preview.rows import Preview
from sdft_ray.preview.terminal import print_preview
from tests.tiny import make_tiny_model

LONG = "Which river flows through the town, " * 9


@pytest.fixture(scope="module")
def preview(tmp_path_factory: pytest.TempPathFactory) -> Preview:
    folder = tmp_path_factory.mktemp("preview")
    model = make_tiny_model(folder / "tiny")
    (folder / "rows.jsonl").write_text(
        f'{{"prompt": "[bold]{LONG}", "demonstration": "Say <|im_end|>\\u001b[31m now."}}\n'
    )
    return show(
        compose_config(
            "+cluster=local",
            "data=jsonl",
            f"data.source={folder / 'rows.jsonl'}",
            "model=custom",
            f"model.path={model}",
            "data.max_prompt_tokens=20",
        )
    )


def printed(preview: Preview, **settings: object) -> str:
    file = io.StringIO()
    print_preview(preview, Console(file=file, highlight=False, **settings))  # type: ignore[arg-type]
    return file.getvalue()


def test_a_file_gets_whole_lines_without_colours(preview: Preview) -> None:
    out = printed(preview, width=80)
    assert "\x1b" not in out
    assert f"[bold]{LONG.strip()}" in out
    assert "[<|im_start|>]user" in out
    assert "<|im_end|><U+001B>[31m now.[<|im_end|>]" in out


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_lines_that_fit_and_colours(preview: Preview, width: int) -> None:
    out = printed(preview, width=width, force_terminal=True, color_system="standard")
    assert "\x1b[1;36m<|im_start|>\x1b[0m" in out
    plain = printed(preview, width=width, force_terminal=True, color_system=None)
    table = [line for line in plain.splitlines() if "teacher prompt" in line]
    assert table and all(len(line) <= width for line in table)


def test_no_color_is_respected(preview: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = printed(preview, width=80, force_terminal=True)
    assert "[<|im_start|>]" in out
    assert "\x1b[36m" not in out and ";36m" not in out


def test_what_breaks_a_budget_is_said_with_its_setting(preview: Preview) -> None:
    out = printed(preview, width=80)
    assert "1 of 1 rows are over data.max_prompt_tokens=20: data.too_long=REFUSE: the run ends before it starts" in out
    assert "over data.max_prompt_tokens\n" in out


def test_every_stage_is_shown_and_has_a_page_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    cfg = compose_config("+cluster=local", "model=custom", f"model.path={model}", "mode=show", "show.html=true")
    show_rows([("facts", cfg), ("more", cfg)])
    assert sorted(path.name for path in tmp_path.glob("*.html")) == ["show-facts.html", "show-more.html"]
    assert capsys.readouterr().out.count("examples of builtin:facts") == 2
