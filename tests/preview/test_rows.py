"""What is shown of which rows, and how all rows keep to their budgets."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sdft_ray.cluster.preview import read_preview
from sdft_ray.config import (
    Choice,
    CompletionSource,
    DemonstrationSource,
    MethodConfig,
    MismatchCorrection,
    OnBadRow,
    RehearsalConfig,
    RunConfig,
    ShowConfig,
    Target,
    TooLong,
)
from sdft_ray.errors import ConfigError
from sdft_ray.launch.composing import compose_config
from sdft_ray.preview.page import render_page
from sdft_ray.preview.rows import Preview
from sdft_ray.preview.spans import Span
from sdft_ray.preview.terminal import print_preview
from tests.tiny import CHAT_TEMPLATE, make_tiny_model

ROWS = """\
{"id": "short", "prompt": "Who?", "demonstration": "She did it."}
{"id": "long", "prompt": "What is the capital of the country, where is the highest mountain?", "demonstration": "X."}
{"id": "talk", "prompt": "Why?", "demonstration": "The capital city is in the north, and the mountain is white."}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def cfg(model: str, tmp_path: Path) -> RunConfig:
    (tmp_path / "rows.jsonl").write_text(ROWS)
    source = f"data.source={tmp_path / 'rows.jsonl'}"
    return compose_config("+cluster=local", "data=jsonl", source, "model=custom", f"model.path={model}", "mode=show")


def shown(cfg: RunConfig, **settings: Any) -> Preview:
    return read_preview(replace(cfg, show=ShowConfig(**settings)))


def ids(preview: Preview) -> list[str]:
    return [row.example_id for row in preview.rows]


def text(spans: tuple[Span, ...]) -> str:
    return "".join(span.text for span in spans)


def test_notes_count_what_carries_no_loss_and_what_is_rehearsed_as_well(cfg: RunConfig) -> None:
    rehearsal = RehearsalConfig(share=0.5, source=cfg.data.source)
    notes = shown(replace(cfg, data=replace(cfg.data, rehearsal=rehearsal))).notes
    assert any(note.startswith("1 of 3 demonstrations carry no loss under loss.skip_first_tokens=3") for note in notes)
    assert any(note.startswith("rehearsal: 3 of the 3 different prompts of ") for note in notes)


def test_ids_and_scores_of_the_pools_rows_are_shown_on_terminal_and_page(cfg: RunConfig) -> None:
    teacher = replace(cfg.teacher, demonstrations=DemonstrationSource.POOL)
    pooled = replace(cfg, teacher=teacher, data=replace(cfg.data, on_bad_row=OnBadRow.SKIP))
    (Path(cfg.data.source)).write_text(ROWS + '{"id": "<who>", "prompt": "Who was it?", "demonstration": "He."}\n')
    preview = shown(pooled, num_rows=1, choose=Choice.FIRST)
    [of_pool] = preview.rows[0].shown_of_pool
    assert re.fullmatch(r"<who> \(score \d\.\d+\)", of_pool)
    said = io.StringIO()
    print_preview(preview, Console(file=said, highlight=False))
    assert f"rows of the pool in it, nearest first: {of_pool}\n" in said.getvalue()
    assert f"nearest first: {of_pool.replace('<who>', '&lt;who&gt;')}" in render_page(preview)
    assert shown(cfg).rows[0].shown_of_pool == ()


def test_rows_are_those_named_or_the_longest_or_drawn_or_the_first(cfg: RunConfig) -> None:
    assert ids(shown(cfg, ids=["talk", "short"])) == ["talk", "short"]
    assert ids(shown(cfg, choose=Choice.LONGEST, num_rows=2)) == ["talk", "long"]
    assert ids(shown(cfg, choose=Choice.FIRST, num_rows=2)) == ["short", "long"]
    assert len(ids(shown(cfg, num_rows=99))) == 3
    drawn = [ids(read_preview(replace(cfg, seed=seed, show=ShowConfig(num_rows=1)))) for seed in (*range(12), 0)]
    assert drawn[0] == drawn[-1] and len({one for [one] in drawn}) == 3


def test_an_unknown_id_is_refused_with_some_that_there_are(cfg: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"show\.ids=nobody: is no example of the data; .*short, long, talk"):
        shown(cfg, ids=["nobody"])


def test_a_row_is_shown_as_the_model_reads_it_with_its_place(cfg: RunConfig) -> None:
    [row] = shown(cfg, ids=["long"]).rows
    assert row.place.line == 2
    expected = "<|begin|><|im_start|>user↵\nWhat is the capital of the country, where is the highest mountain?"
    assert text(row.prompt.spans) == f"{expected}<|im_end|>↵\n<|im_start|>assistant↵\n"
    assert row.teacher_prompt is not None and "X." in text(row.teacher_prompt.spans)
    assert row.tails is not None and row.tails.are_same
    assert text(row.tails.student).endswith("mountain?<|im_end|>↵\n<|im_start|>assistant↵\n")


def test_tokens_without_loss_stand_apart(cfg: RunConfig) -> None:
    for skipped in (0, 3, 99):
        [row] = read_preview(
            replace(cfg, loss=replace(cfg.loss, skip_first_tokens=skipped), show=ShowConfig(ids=["short"]))
        ).rows
        whole = text(row.uncounted.spans) + text(row.counted.spans)
        assert whole.replace("·", " ") == "She did it.<|im_end|>"
        assert row.uncounted.num_tokens == min(skipped, row.uncounted.num_tokens + row.counted.num_tokens)


@pytest.mark.parametrize("too_long", list(TooLong))
def test_rows_over_a_budget_are_counted_and_end_nothing(cfg: RunConfig, too_long: TooLong) -> None:
    [student, *_] = shown(cfg).budgets
    data = replace(cfg.data, max_prompt_tokens=student.longest - 1, too_long=too_long)
    preview = shown(replace(cfg, data=data), ids=["long", "short"])
    assert [budget.num_over for budget in preview.budgets] == [1, 0, 0, 3]  # the tiny model reads 512 tokens
    assert [row.over for row in preview.rows] == [("data.max_prompt_tokens",), ()]
    assert too_long.name in preview.budgets[0].meaning
    assert (preview.budgets[0].shortest, preview.budgets[0].longest) == (student.shortest, student.longest)


def test_a_method_without_a_teacher_shows_none(cfg: RunConfig) -> None:
    method = MethodConfig(name="sft", completion=CompletionSource.DEMONSTRATION, target=Target.TOKEN)
    loss = replace(cfg.loss, mismatch=MismatchCorrection.NONE)
    preview = shown(replace(cfg, method=method, loss=loss))
    assert preview.template == ""
    assert all(row.teacher_prompt is None and row.tails is None for row in preview.rows)
    assert [budget.name for budget in preview.budgets] == ["prompt", "prompt with completion"]
    assert preview.budgets[1].num_over == 0


def test_a_block_that_only_one_side_opens_is_said(cfg: RunConfig, tmp_path: Path) -> None:
    """As a template does whose switch is wrong on one side."""
    template = CHAT_TEMPLATE.replace(
        "assistant\\n' }}", "assistant\\n' }}{% if 'example' in messages[-1].content %}<think>\n{% endif %}"
    )
    cfg = replace(cfg, model=replace(cfg.model, chat_template=template))
    tails = [row.tails for row in shown(cfg).rows]
    assert all(tail is not None and not tail.are_same for tail in tails)
    assert tails[0] is not None and text(tails[0].teacher).endswith("<think>↵\n")


def test_notes_on_the_data_are_shown(cfg: RunConfig) -> None:
    preview = shown(replace(cfg, data=replace(cfg.data, num_examples=7)))
    assert any("data.num_examples=7" in note for note in preview.notes)


def test_reasoning_without_loss_stands_apart_too(cfg: RunConfig) -> None:
    [row] = read_preview(
        replace(cfg, loss=replace(cfg.loss, skip_first_tokens=0, skip_until="did"), show=ShowConfig(ids=["short"]))
    ).rows
    assert text(row.uncounted.spans).endswith("did") and text(row.counted.spans).startswith("·it")
    never = read_preview(replace(cfg, loss=replace(cfg.loss, skip_until="nowhere"), show=ShowConfig(ids=["short"])))
    assert never.rows[0].counted.num_tokens == 0
    assert never.skipped_by.endswith("loss.skip_until='nowhere'")


def test_rows_of_a_mix_are_shown_under_their_source_and_rehearsal_is_said(cfg: RunConfig) -> None:
    mix = {"facts": "builtin:facts:taught[:4]", "own": {"source": cfg.data.source, "weight": 2}}
    rehearsal = RehearsalConfig(share=0.25)
    preview = shown(replace(cfg, data=replace(cfg.data, source="", mix=mix, rehearsal=rehearsal)), ids=["own:short"])
    assert preview.num_rows == 7
    assert preview.rows[0].place.line == 1
    assert any(note.startswith("rehearsal: 4 of the 16 rows") for note in preview.notes)
