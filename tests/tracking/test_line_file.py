"""Lines outlive a full disk and a deleted folder: nothing is raised, nothing is torn, it is said once."""

import shutil
from pathlib import Path

import pytest

from sdft_ray.tracking import line_file
from sdft_ray.tracking.jsonl import cut_after
from sdft_ray.tracking.line_file import LineFile
from tests.full_disk import no_file_beyond, small_file_system


def test_lines_that_find_no_room_come_once_there_is_some(tmp_path: Path) -> None:
    said: list[str] = []
    lines = LineFile(tmp_path / "metrics.jsonl", said.append)
    lines.write(["first\n"])
    with no_file_beyond(8):
        lines.write(["second\n", "third\n"])
        lines.write(["fourth\n"])
        assert (tmp_path / "metrics.jsonl").read_text() == "first\n", "no torn line"
    lines.write(["fifth\n"])
    lines.close()
    assert (tmp_path / "metrics.jsonl").read_text() == "first\nsecond\nthird\nfourth\nfifth\n"
    assert [line.split("(")[0].strip() for line in said] == [
        f"not written    {tmp_path}/metrics.jsonl",
        f"written again  {tmp_path}/metrics.jsonl",
    ]


def test_a_full_file_system_is_told_by_its_name(tmp_path: Path) -> None:
    said: list[str] = []
    with small_file_system(tmp_path / "disk", 64) as disk:
        lines = LineFile(disk / "metrics.jsonl", said.append)
        for _ in range(10):
            lines.write(["x" * 9_999 + "\n"])
        assert set((disk / "metrics.jsonl").read_text().splitlines()) == {"x" * 9_999}
        lines.close()
    assert "No space left on device" in said[0]
    assert said[-1].startswith("lost ") and len(said) == 2


def test_a_deleted_folder_is_said_and_what_was_kept_counted(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "run").mkdir()
    lines = LineFile(tmp_path / "run" / "metrics.jsonl", said.append)
    lines.write(["first\n"])
    shutil.rmtree(tmp_path / "run")
    for _ in range(3):
        lines.write(["later\n"])
    lines.close()
    assert len(said) == 2 and "it was deleted" in said[0]
    assert said[1] == f"lost           3 lines of {tmp_path}/run/metrics.jsonl, which could not be written"


def test_a_deleted_file_is_begun_again(tmp_path: Path) -> None:
    lines = LineFile(tmp_path / "metrics.jsonl", lambda line: None)
    lines.write(["first\n"])
    (tmp_path / "metrics.jsonl").unlink()
    lines.write(["second\n"])
    lines.write(["third\n"])
    assert (tmp_path / "metrics.jsonl").read_text() == "second\nthird\n"
    lines.close()


def test_a_file_that_its_run_has_cut_back_takes_the_next_lines_without_a_word(tmp_path: Path) -> None:
    said: list[str] = []
    lines = LineFile(tmp_path / "answers.jsonl", said.append)
    lines.write(['{"step": 1}\n', '{"step": 2}\n'])
    cut_after(tmp_path / "answers.jsonl", 1)
    lines.write(['{"step": 2}\n'])
    lines.close()
    assert (tmp_path / "answers.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert said == []


def test_lines_that_wait_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_file, "MAX_KEPT_BYTES", 25)
    said: list[str] = []
    lines = LineFile(tmp_path / "gone" / "metrics.jsonl", said.append)
    for number in range(9):
        lines.write([f"line {number}...\n"])
    (tmp_path / "gone").mkdir()
    lines.close()
    assert (tmp_path / "gone" / "metrics.jsonl").read_text() == "line 7...\nline 8...\n"
    assert said[-1].startswith("lost           7 lines")
