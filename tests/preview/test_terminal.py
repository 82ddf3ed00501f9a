"""The terminal shows special tokens in colour where it has colours, and in brackets where it has none."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from sdft_ray.api import show
from sdft_ray.launch.composing import compose_config
from sdft_ray.preview.rows import Preview
from sdft_ray.preview.terminal import print_preview
from tests.cluster.in_process import run_in_process
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


def test_the_command_shows_every_stage_with_a_page_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    settings = ["+cluster=local", "mode=show", "show.html=true", "model=custom", f"model.path={model}"]
    code, said = run_in_process(*settings, "stages=['facts','tools num_steps=2']")
    assert code == 0, said
    assert "examples of builtin:facts" in said and "examples of builtin:tools" in said
    pages = sorted(tmp_path.glob("*.html"))
    assert [page.name for page in pages] == ["show-1-facts.html", "show-2-tools.html"]
    assert all(f"page     {page}" in said for page in pages)
    assert not (tmp_path / "runs").exists()
