"""All sources of a mix are read and checked at once, and an error says of which of them it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.config import (
    CompletionSource,
    DataConfig,
    DemonstrationSource,
    MethodConfig,
    PoolConfig,
    RehearsalConfig,
    Target,
    TeacherConfig,
)
from sdft_ray.data.mix import read_examples
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.rehearsal import read_rehearsal
from sdft_ray.data.tokenized import MixPart, TokenizedDataset
from sdft_ray.errors import ConfigError, DataError
from tests.tiny import make_tiny_tokenizer

SFT = MethodConfig(name="sft", completion=CompletionSource.DEMONSTRATION, target=Target.TOKEN)


def write(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(**mix: object) -> TokenizedDataset:
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig())
    return read_examples(DataConfig(source="", mix=mix), SFT, builder)


def test_rows_stand_source_by_source_and_bear_its_name(tmp_path: Path) -> None:
    own = write(tmp_path / "own.jsonl", {"prompt": "Who?", "demonstration": "She."})
    other = write(tmp_path / "other.jsonl", *[{"q": "What?", "a": f"It {n}.", "level": n} for n in range(3)])
    columns = {"prompt": "q", "demonstration": "a"}
    dataset = read(own=own, other={"source": other, "weight": 2, "columns": columns, "num_examples": 2})
    assert [row.example_id for row in dataset.rows] == ["own:line-1", "other:line-1", "other:line-2"]
    assert dataset.mix == (MixPart("own", 1.0, 1), MixPart("other", 2.0, 2))
    (row,) = read(easy={"source": other, "columns": columns, "filter": {"level": 1}}).rows
    assert row.example_id == "easy:line-2"


def test_hits_bear_the_name_of_the_source_that_is_its_own_pool_and_a_note_says_so(tmp_path: Path) -> None:
    def read_from_pool(pool: PoolConfig) -> TokenizedDataset:
        teacher = TeacherConfig(template="turns", demonstrations=DemonstrationSource.POOL, pool=pool)
        builder = PromptBuilder(make_tiny_tokenizer(), teacher)
        return read_examples(DataConfig(source="", mix={"one": rows, "other": rows}), MethodConfig(), builder)

    rows = write(tmp_path / "rows.jsonl", *[{"prompt": f"Who {n}?", "demonstration": f"She {n}."} for n in range(2)])
    own, named = read_from_pool(PoolConfig()), read_from_pool(PoolConfig(source=rows))
    assert [row.pool_hits[0][0] for row in own.rows] == ["one:line-2", "one:line-1", "other:line-2", "other:line-1"]
    assert [row.pool_hits[0][0] for row in named.rows] == ["line-2", "line-1"] * 2
    assert ["a pool of its own" in dataset.notes[-1] for dataset in (own, named)] == [True, False]


def test_a_split_of_its_own_is_read() -> None:
    dataset = read(facts={"source": "builtin:facts", "split": "taught[:4]"}, tools="builtin:tools:train[:2]")
    assert [part.num_rows for part in dataset.mix] == [4, 2]


def test_an_error_names_the_source_it_is_of(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", {"prompt": "Who?"})
    with pytest.raises(DataError, match=r"^data\.mix\.chat: .*bad\.jsonl, line 1: has no column demonstration"):
        read(facts="builtin:facts", chat=bad)
    with pytest.raises(DataError, match=r"name another with data\.mix\.chat\.columns\.demonstration"):
        read(facts="builtin:facts", chat={"source": bad, "columns": {"answer": "gold"}})
    with pytest.raises(ConfigError, match=r"^data\.mix\.chat\.source=gone\.jsonl: no such file"):
        read(facts="builtin:facts", chat="gone.jsonl")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"source": "a.jsonl", "weight": 0}, r"data\.mix\.a\.weight=0\.0: must be a positive number.*~data\.mix\.a"),
        ({"source": "a.jsonl", "weight": "much"}, r"data\.mix\.a=.*the settings of a source are source, weight"),
        ({"weight": 1}, r"data\.mix\.a\.source='': names no data"),
        (
            {"source": "a.jsonl", "wieght": 1},
            r"data\.mix\.a\.wieght=1: there is no such setting; the nearest is .*weight",
        ),
        ({"source": "a.jsonl", "num_examples": -1}, r"data\.mix\.a\.num_examples=-1"),
        (3, r"data\.mix\.a=3: is neither a source nor settings of one"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_by_its_key(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(source="", mix={"a": value})


def test_a_source_beside_a_mix_is_refused_and_neither_of_them_too() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.source=builtin:facts: stands beside data\.mix.* are a; choose data=mix"
    ):
        DataConfig(mix={"a": "a.jsonl"})
    with pytest.raises(ConfigError, match="data.source=: names no data"):
        DataConfig(source="")


@pytest.mark.parametrize("settings", [{"num_examples": 4}, {"split": "test"}, {"filter": {"level": 1}}])
def test_what_is_said_of_one_source_is_refused_beside_a_mix(settings: dict[str, Any]) -> None:
    (key,) = settings
    with pytest.raises(ConfigError, match=rf"^data\.{key}=.*: is said of data\.source.*set data\.mix\.NAME\.{key} for"):
        DataConfig(source="", mix={"a": "a.jsonl"}, **settings)


def test_a_mix_may_be_rehearsed_beside() -> None:
    data = DataConfig(source="", mix={"facts": "builtin:facts"}, rehearsal=RehearsalConfig(share=0.25))
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig())
    rehearsal = read_rehearsal(data, builder, batch_size=8, max_new_tokens=16)
    assert rehearsal is not None and rehearsal.source == "builtin:general"


def test_people_are_told_the_sources_with_their_weights() -> None:
    data = DataConfig(source="", mix={"tools": {"source": "t.jsonl", "weight": 3}, "chat": "c.jsonl"})
    assert data.origin == "3 tools (t.jsonl) : 1 chat (c.jsonl)"
    assert DataConfig(source="t.jsonl").origin == "t.jsonl"
