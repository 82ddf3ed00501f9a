import io
import sys

import pytest
from rich.console import Console

from sdft_ray.config import Mode
from sdft_ray.launch import CONF, main
from sdft_ray.launch.help import GROUPS, show_help


def test_every_mode_and_every_choice_is_named_with_what_it_is() -> None:
    text = io.StringIO()
    show_help(Console(file=text, width=200))
    lines = [line.split(maxsplit=1) for line in text.getvalue().splitlines()]
    told = {line[0]: line[1] for line in lines if len(line) == 2}
    assert {f"mode={mode.name}" for mode in Mode} <= told.keys()
    for group, prefix in GROUPS.items():
        for path in (CONF / group).glob("*.yaml"):
            assert told[prefix + path.stem][0].isupper(), f"{path} does not begin with what it is for"
    assert told["learner.zero_stage=2"].startswith("0 replicates everything")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_command_prints_it_and_composes_nothing(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sdft", option, "no=setting"])
    main()
    assert "usage: sdft +cluster=NAME" in capsys.readouterr().out
