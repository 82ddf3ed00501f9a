"""A run whose standard output is a full disk, or a pipe that nobody reads any more, goes on and ends as it would."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import os, sys
from rich.console import Console
from sdft_ray.launch.terminal import outlasting_terminal
from sdft_ray.tracking.console import ConsoleSink

with outlasting_terminal(), ConsoleSink(num_steps=3) as console:
    print("an evaluation speaks as well")
    for step in (1, 2, 3):
        console.log_step(step, 1.0, {"learner/loss": 0.5}, ())
    console.show(lambda console: console.print("a table"))
os.write(2, b"trained")
"""


@pytest.mark.parametrize("where", ["full disk", "closed pipe"])
def test_a_run_outlasts_its_terminal(where: str) -> None:
    command = [sys.executable, "-c", RUN]
    with Path("/dev/full").open("w") as full:
        stdout = full if where == "full disk" else subprocess.PIPE
        run = subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        if run.stdout is not None:
            run.stdout.close()
        assert run.stderr is not None
        assert (run.stderr.read(), run.wait(60)) == ("trained", 0)
