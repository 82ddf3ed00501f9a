"""Whatever bytes the files of a run folder hold, looking at the run or going on with it ends in an error of ours."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.cluster.finished import finished_run
from sdft_ray.errors import SdftError
from sdft_ray.launch import compose_config
from sdft_ray.tracking.jsonl import JsonLines
from sdft_ray.tracking.run_status import write_status
from sdft_ray.tracking.run_view import read_view
from sdft_ray.tracking.summary import Summary, write_summary
from tests.watch.observed import make_status

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2] + b"\n",
    "no JSON": lambda whole: b"{\n",
    "another JSON": lambda whole: b"null\n",
    "another record": lambda whole: b'{"step": 1}\n',
    "a text for a number": lambda whole: b'{"step": "x", "num_steps": "x", "time_s": "x"}\n',
    "no text": lambda whole: random.Random(0).randbytes(300) + b"\n",
    "zeros": lambda whole: bytes(200) + b"\n",
    "deep": lambda whole: b"[" * 100_000 + b"\n",
}


def go_on(folder: Path) -> None:
    finished_run(compose_config("+cluster=local", f"runs_dir={folder.parent}", "name=run", "resume=auto"))
    lines = JsonLines(folder, str, resumed_step=2)
    Summary(lines.history)
    lines.close()


@pytest.mark.parametrize("act", [go_on, read_view], ids=["go on", "look"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "summary.json", "status.json"])
def test_a_damaged_file_ends_in_an_error_of_ours_or_in_nothing(
    tmp_path: Path, name: str, damage: str, act: Callable[[Path], Any]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lines = "".join(f'{{"step": {step}, "time_s": 0.5, "loop/step_s": 0.5}}\n' for step in (1, 2, 3))
    for each in ("metrics.jsonl", "samples.jsonl"):
        (folder / each).write_text(lines)
    write_summary(folder, {"num_steps": 3})
    write_status(folder, make_status())
    act(folder)
    (folder / name).write_bytes(DAMAGES[damage]((folder / name).read_bytes()))
    try:
        act(folder)
    except SdftError as error:
        assert name in str(error)
