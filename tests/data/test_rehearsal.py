"""Rehearsal prompts are read, checked and counted before anything starts; their teacher sees what the student sees."""

import json
from pathlib import Path

import pytest

from sdft_ray.config import DataConfig, RehearsalConfig, TeacherConfig
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.rehearsal import Rehearsal, read_rehearsal
from sdft_ray.errors import ConfigError, DataError
from tests.tiny import make_tiny_tokenizer


def read(*, batch_size: int = 8, system: str = "", **settings: object) -> Rehearsal:
    data = DataConfig(rehearsal=RehearsalConfig(**{"share": 0.25} | settings), system=system)  # type: ignore[arg-type]
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig())
    rehearsal = read_rehearsal(data, builder, batch_size=batch_size, max_new_tokens=16)
    assert rehearsal is not None
    return rehearsal


def write(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_nothing_is_rehearsed_unless_asked_for() -> None:
    builder = PromptBuilder(make_tiny_tokenizer(), TeacherConfig())
    assert read_rehearsal(DataConfig(), builder, batch_size=8, max_new_tokens=16) is None


def test_the_built_in_prompts_are_those_that_retention_is_not_measured_on() -> None:
    rehearsal = read()
    assert (len(rehearsal.rows), rehearsal.per_batch, rehearsal.max_new_tokens) == (32, 2, 16)
    assert all(row.example_id.startswith("rehearsal:general-train-") for row in rehearsal.rows)
    assert rehearsal.notes == ("rehearsal: 2 of the 8 rows of a batch are among 32 prompts of builtin:general",)


def test_the_teacher_sees_the_plain_prompt_and_no_demonstration(tmp_path: Path) -> None:
    source = write(tmp_path / "old.jsonl", {"prompt": "What is it?", "demonstration": "It is old."}, {"prompt": "Who?"})
    (first, second) = read(source=source, system="Be brief.", max_new_tokens=40).rows
    assert first.teacher_prompt_tokens == first.prompt_tokens != second.prompt_tokens
    assert first.demonstration_tokens == ()
    plain = read(source=source).rows[0]
    assert len(plain.prompt_tokens) < len(first.prompt_tokens), (
        "the system message of the data is that of rehearsal, too"
    )


@pytest.mark.parametrize(
    ("batch_size", "share", "rows", "said"),
    [(8, 0.25, 2, ""), (10, 0.25, 3, "rounded to 0.3"), (6, 0.25, 2, "rounded to 0.333"), (3, 0.25, 1, "0.333")],
)
def test_a_share_is_rounded_to_whole_rows_and_that_is_said(batch_size: int, share: float, rows: int, said: str) -> None:
    rehearsal = read(batch_size=batch_size, share=share)
    assert rehearsal.per_batch == rows
    assert ("rounded" in rehearsal.notes[0]) == bool(said) and said in rehearsal.notes[0]


def test_a_bad_row_is_refused_with_its_file_and_line(tmp_path: Path) -> None:
    source = write(tmp_path / "old.jsonl", {"prompt": "Who?"}, {"question": "What?"})
    with pytest.raises(
        DataError,
        match=r"^data\.rehearsal\.source: .*old\.jsonl, line 2: has no column prompt.*data\.rehearsal\.columns\.prompt",
    ):
        read(source=source)


def test_columns_of_its_own_name_the_prompt(tmp_path: Path) -> None:
    source = write(tmp_path / "old.jsonl", {"question": "What?", "key": "q1"})
    (row,) = read(source=source, columns={"prompt": "question", "id": "key"}).rows
    assert row.example_id == "rehearsal:q1"


def test_a_completion_that_the_model_cannot_read_behind_its_prompt_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.rehearsal\.max_new_tokens=500: .*the model reads 511; lower it"):
        read(max_new_tokens=500).check_fit(512)
    read(max_new_tokens=400).check_fit(512)
