"""A tokenised data set is kept under the fingerprint of all it depends on, and a kept one is as good as a new one."""

import importlib.metadata
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdft_ray.config import (
    CompletionSource,
    DataConfig,
    MethodConfig,
    OnBadRow,
    PoolConfig,
    Target,
    TeacherConfig,
    TeacherContext,
    TooLong,
)
from sdft_ray.config.cache import cache_folder
from sdft_ray.data import cache, chat_sandbox, dataset
from sdft_ray.data import fingerprint as fingerprints
from sdft_ray.data.cache import DatasetCache
from sdft_ray.data.dataset import read_dataset
from sdft_ray.data.fingerprint import fingerprint
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import Place
from sdft_ray.data.tokenized import TokenizedDataset, TokenizedRow, TokenizedRows
from sdft_ray.errors import ConfigError, DataError
from tests.tiny import CHAT_TEMPLATE, make_tiny_tokenizer

SDFT = MethodConfig()
SFT = MethodConfig(name="sft", completion=CompletionSource.DEMONSTRATION, target=Target.TOKEN)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that keeps even two rows."""
    monkeypatch.setenv("SDFT_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(dataset, "MIN_ROWS", 2)
    return tmp_path / "cache" / "rows"


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Good rows, bad ones, repeated ones, and one that is too long."""
    rows = [{"prompt": f"Which {number}?", "demonstration": f"It is {number}, ü."} for number in range(6)]
    rows += [{"prompt": 3}, rows[2], {"prompt": "why? " * 40, "demonstration": "So."}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(
        source=str(path), on_bad_row=OnBadRow.SKIP, too_long=TooLong.SKIP, max_prompt_tokens=60, num_examples=50
    )


def builder(special_tokens: bool = False, **teacher: object) -> PromptBuilder:
    settings = TeacherConfig(**teacher)  # type: ignore[arg-type]
    return PromptBuilder(make_tiny_tokenizer(), settings, special_tokens=special_tokens)


def contents(read: TokenizedDataset) -> tuple[list[tuple[Place, TokenizedRow]], int, tuple[str, ...]]:
    return [*zip(read.places, read.rows, strict=True)], read.num_skipped, read.notes


def reading_again(*_: object) -> None:
    raise AssertionError("the rows are read again")


def test_a_second_start_reads_no_row_and_gets_the_same(
    data: DataConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = contents(read_dataset(replace(data, cache=False), SDFT, builder()))
    assert not folder.exists()
    first = contents(read_dataset(data, SDFT, builder()))
    digest = read_dataset(replace(data, cache=False), SDFT, builder()).rows.digest()
    monkeypatch.setattr(dataset, "load_rows", reading_again)
    second = contents(read_dataset(data, SDFT, builder()))
    assert read_dataset(data, SDFT, builder()).rows.digest() == digest  # by which a checkpoint knows its data
    assert plain == first == second
    assert [len(first[0]), first[1]] == [7, 1]
    assert [
        next(word for word in ("bad rows", "num_examples=50", "repeat", "over their") if word in note)
        for note in first[2]
    ] == ["bad rows", "num_examples=50", "repeat", "over their"]


def test_refusals_are_the_same_at_every_start(data: DataConfig, folder: Path) -> None:
    strict = replace(data, on_bad_row=OnBadRow.ERROR)
    said = set()
    for is_cached in (False, True, True):
        with pytest.raises(DataError) as refused:
            read_dataset(replace(strict, cache=is_cached), SDFT, builder())
        said.add(str(refused.value))
    [message] = said
    assert "rows.jsonl, line 7" in message and not folder.exists()


@pytest.mark.parametrize(
    "other",
    [
        lambda data: fingerprint(replace(data, max_text_tokens=61), SDFT, builder()),
        lambda data: fingerprint(replace(data, columns={"demonstration": "prompt"}), SDFT, builder()),
        lambda data: fingerprint(data, SFT, builder()),
        lambda data: fingerprint(data, SDFT, builder(template="turns")),
        lambda data: fingerprint(data, SDFT, builder(context=TeacherContext.NONE)),
        lambda data: fingerprint(
            data, SDFT, PromptBuilder(make_tiny_tokenizer(), TeacherConfig(), special_tokens=True)
        ),
    ],
)
def test_whatever_decides_the_tokens_has_a_fingerprint_of_its_own(
    data: DataConfig, other: Callable[[DataConfig], str]
) -> None:
    assert other(data) != fingerprint(data, SDFT, builder())


def test_rows_whose_fields_a_template_names_are_kept_and_refused_as_without_a_cache(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = builder(template="{{ context.feedback }} {{ question }} {{ demonstration }}")
    rows = [{"prompt": f"Sort {number}.", "demonstration": "a b", "context": {"feedback": "No."}} for number in "12"]
    Path(data.source).write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = contents(read_dataset(data, SDFT, asking))
    with monkeypatch.context() as patched:
        patched.setattr(dataset, "load_rows", reading_again)
        assert contents(read_dataset(data, SDFT, asking)) == first and len(first[0]) == 2
    Path(data.source).write_text(json.dumps(rows[0] | {"context": {"hint": "No."}}))
    with pytest.raises(DataError, match=r"line 1: .* has no context\.feedback"):
        read_dataset(replace(data, on_bad_row=OnBadRow.ERROR), SDFT, asking)


def test_what_has_no_part_in_the_tokens_keeps_the_fingerprint(data: DataConfig) -> None:
    same = fingerprint(
        replace(data, max_prompt_tokens=9, shuffle=False), replace(SDFT, name="mine"), builder(ema_decay=0.9, top_k=7)
    )
    assert same == fingerprint(data, SDFT, builder())


def test_a_file_beside_the_data_has_no_part_in_the_fingerprint(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = contents(read_dataset(data, SDFT, builder()))
    first = fingerprint(data, SDFT, builder())
    (tmp_path / "beside.txt").write_text("of another run")
    assert fingerprint(data, SDFT, builder()) == first
    monkeypatch.setattr(dataset, "load_rows", reading_again)
    assert contents(read_dataset(data, SDFT, builder())) == kept


def test_a_file_that_cannot_be_read_is_said_of_the_setting_that_names_it(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text('{"prompt": "Who?", "demonstration": "She."}\n')
    opened = Path.open

    def refusing(path: Path, *arguments: Any) -> Any:
        if path == pool:
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises(
        ConfigError, match=r"^teacher\.pool\.source=.*pool\.jsonl: cannot be read \(Permission denied\)"
    ):
        fingerprint(data, SDFT, builder(pool=PoolConfig(source=str(pool))))


@pytest.mark.parametrize("name", ["conversation.py", "examples.py", "pool.py"])
def test_code_that_says_what_a_row_is_counts_with_its_content(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = fingerprint(data, SDFT, builder())
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read_bytes(path) + b"#" * (path.name == name))
    monkeypatch.setattr(fingerprints, "_code_digest", fingerprints._code_digest.__wrapped__)
    assert fingerprint(data, SDFT, builder()) != before


def test_the_package_that_searches_pools_counts_with_its_version_and_may_be_missing(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version
    prints = []
    for searching in ("1", "2", None):

        def known(package: str, searching: str | None = searching) -> str:
            if package != "bm25s":
                return version(package)
            if searching is None:
                raise importlib.metadata.PackageNotFoundError(package)
            return searching

        monkeypatch.setattr(importlib.metadata, "version", known)
        prints.append(fingerprint(data, SDFT, builder()))
    assert len(set(prints)) == 3


def test_a_row_a_template_file_and_a_chat_template_count_with_their_content(data: DataConfig, tmp_path: Path) -> None:
    template = tmp_path / "teacher.jinja"
    template.write_text("{{ question }} {{ demonstration }}")
    prints = [fingerprint(data, SDFT, builder(template=str(template)))]
    template.write_text("{{ demonstration }} {{ question }}")
    prints.append(fingerprint(data, SDFT, builder(template=str(template))))
    source = Path(data.source)
    source.write_text(source.read_text().replace("Which 1?", "Which 2?"))
    prints.append(fingerprint(data, SDFT, builder(template=str(template))))
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE + " "
    prints.append(fingerprint(data, SDFT, PromptBuilder(tokenizer, TeacherConfig(template=str(template)))))
    assert len(set(prints)) == 4


def test_a_template_that_writes_the_date_is_not_used_on_another_day(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = []
    for day in (1, 2):
        now = datetime(2026, 5, day)
        monkeypatch.setattr(chat_sandbox, "datetime", SimpleNamespace(now=lambda now=now: now))
        tokenizer = make_tiny_tokenizer()
        tokenizer.chat_template = "{{ strftime_now('%d %b') }}" + CHAT_TEMPLATE
        days.append(fingerprint(data, SDFT, PromptBuilder(tokenizer, TeacherConfig())))
    assert days[0] != days[1]


@pytest.mark.parametrize("place", [0, 40, -1, None])
def test_a_damaged_file_is_said_and_made_again(data: DataConfig, folder: Path, place: int | None) -> None:
    plain = contents(read_dataset(data, SDFT, builder()))
    [path] = folder.iterdir()
    written = path.read_bytes()
    damaged = bytearray(written)
    if place is not None:
        damaged[place] ^= 1
    path.write_bytes(damaged if place is not None else written[: len(written) // 2])
    rows, num_skipped, notes = contents(read_dataset(data, SDFT, builder()))
    [said] = [note for note in notes if note.startswith(f"{path}: is damaged (its content")]
    assert (rows, num_skipped, tuple(note for note in notes if note != said)) == plain
    assert contents(read_dataset(data, SDFT, builder())) == plain


def test_a_folder_that_cannot_be_written_is_said_and_ends_nothing(data: DataConfig, folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    plain = contents(read_dataset(replace(data, cache=False), SDFT, builder()))
    rows, _, notes = contents(read_dataset(data, SDFT, builder()))
    assert rows == plain[0]
    assert any("cannot be written" in note for note in notes)


def test_few_rows_and_built_in_ones_are_not_kept(
    data: DataConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_dataset(DataConfig(), SDFT, builder())
    monkeypatch.setattr(dataset, "MIN_ROWS", cache.MIN_ROWS)
    read_dataset(data, SDFT, builder())
    assert not folder.exists()


def some_rows(number: int) -> TokenizedDataset:
    row = TokenizedRow(
        example_id="a", prompt_tokens=(1, 2), teacher_prompt_tokens=(), demonstration_tokens=tuple(range(number))
    )
    return TokenizedDataset(rows=TokenizedRows.of([row]), places=(Place("here", 3),))


def test_two_runs_may_write_at_once_and_readers_see_whole_files(tmp_path: Path) -> None:
    kept = DatasetCache(tmp_path)
    kept.store("same", some_rows(5000))
    writers = [threading.Thread(target=kept.store, args=("same", some_rows(5000))) for _ in range(8)]
    for writer in writers:
        writer.start()
    for _ in range(50):
        loaded = kept.load("same")
        assert loaded is not None and len(loaded.rows[0].demonstration_tokens) == 5000
    for writer in writers:
        writer.join()
    assert [path.name for path in tmp_path.iterdir()] == ["same.rows"]


def test_the_files_used_longest_ago_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = DatasetCache(tmp_path)
    now = time.time()
    for age, name in enumerate(("newest", "middle", "oldest")):
        kept.store(name, some_rows(20_000))
        os.utime(kept.path(name), (now - 60 * age,) * 2)
    (tmp_path / "killed.new").touch()
    os.utime(tmp_path / "killed.new", (now - 2 * cache.ABANDONED_AFTER_S,) * 2)
    (tmp_path / "writing.new").touch()
    assert kept.load("oldest") is not None  # and so it is the newest used
    monkeypatch.setattr(cache, "LIMIT_GIB", 3.5 * kept.path("oldest").stat().st_size / 2**30)
    kept.store("more", some_rows(20_000))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "more.rows",
        "newest.rows",
        "oldest.rows",
        "writing.new",
    ]


def test_a_cache_lies_where_the_environment_says_or_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDFT_RAY_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/users")
    assert cache_folder() == Path("/own")
    monkeypatch.delenv("SDFT_RAY_CACHE")
    assert cache_folder() == Path("/users/sdft_ray")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "sdft_ray"
