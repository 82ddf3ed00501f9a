"""How the command ends: an exit code and at most one message."""

import asyncio
from pathlib import Path

import pytest

from sdft_ray.errors import ConfigError, WorkerError
from sdft_ray.outcome import Outcome
from tests.full_disk import no_file_beyond

ENDS = [
    (ConfigError("a.b", 1, "is wrong", "set a.b=2"), 1, "error: a.b=1: is wrong; set a.b=2."),
    (KeyboardInterrupt(), 130, "error: interrupted"),
    (asyncio.CancelledError(), 143, "error: terminated"),
    (SystemExit(15), 143, "error: terminated"),  # of a handler of SIGTERM, ours or Ray's
    (
        ExceptionGroup("", [ExceptionGroup("", [WorkerError("worker 0 died"), ValueError("its neighbour")])]),
        1,
        "error: worker 0 died",
    ),
]


@pytest.mark.parametrize(("error", "code", "message"), ENDS, ids=lambda value: type(value).__name__)
def test_an_expected_end_is_one_message(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Outcome() as outcome:
        raise error
    assert outcome.code == code
    assert capsys.readouterr().err.strip().startswith(message)


def test_an_unexpected_error_leaves_its_traceback_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Outcome() as outcome:
        outcome.log = tmp_path / "driver.log"
        raise ZeroDivisionError("by nothing")
    assert outcome.code == 1
    assert "Traceback" in outcome.log.read_text()
    assert outcome.log.read_text().endswith(f"error: ZeroDivisionError: by nothing\nIts traceback: {outcome.log}\n")
    assert capsys.readouterr().err == f"\nerror: ZeroDivisionError: by nothing\nIts traceback: {outcome.log}\n"


def test_what_cannot_be_resumed_says_what_to_do_instead(capsys: pytest.CaptureFixture[str]) -> None:
    with Outcome() as outcome:
        outcome.remedy = "start again"
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "\nerror: interrupted; start again\n"


def test_a_good_end_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Outcome() as outcome:
        pass
    assert outcome.code == 0
    assert capsys.readouterr().err == ""


def test_an_error_on_a_full_disk_is_told_and_not_hidden_by_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for error in (ConfigError("a.b", 1, "is wrong", "set a.b=2"), ZeroDivisionError("by nothing")):
        log = tmp_path / "driver.log"
        log.write_text("x" * 100)
        with no_file_beyond(100), Outcome() as outcome:
            outcome.log = log
            raise error
        assert outcome.code == 1
        told = capsys.readouterr().err
        assert str(error) in told and "File too large" not in told
