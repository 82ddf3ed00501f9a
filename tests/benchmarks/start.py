"""From the command to the first step, part by part: the demo's second start, when files and extension are there.

The demo with SmolLM2-135M-Instruct on two cores, started twice; the second start counts. Seconds are the clock's since
the command was given: the workers start at the same time, and what is measured beside other work takes longer. The
processor's seconds are those of all threads of the run's own processes until its first step, by process, and depend on
other work little; half of them is the least that two cores can take.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.benchmarks.processes import ROOT, family

SETTINGS = ("+cluster=local", "+experiment=demo", "num_steps=1", "checkpoint_every=0")
SAMPLE_EVERY_S = 0.25
LEAST_S = 0.2  # of a processor, for a process to have a row

# What the driver logs where a part ends, which has begun where the line without its seconds stands.
PARTS = {
    r"starting 1 (\w+) worker": "{} worker",
    "comparing the rollout engines with the learner": "guard of the engine",
    "evaluating after step 0": "first evaluation",
}
FIRST_STEP = re.compile(r"step 1/1 ")


class Line(NamedTuple):
    """A line of a run's driver.log."""

    time_s: float  # since the epoch
    text: str


class Part(NamedTuple):
    """What was going on from one moment to another, in seconds since the command."""

    part: str
    begins_s: float
    ends_s: float


def measure() -> dict[str, Any]:
    """Starts the demo twice."""
    with tempfile.TemporaryDirectory() as scratch:
        _start("first", Path(scratch))
        load, _, _ = os.getloadavg()
        command_s, samples = _start("second", Path(scratch))
        folder = Path(scratch) / "second"
        parts = parts_of(read_log(folder / "logs" / "driver.log"), command_s, (folder / ".lock").stat().st_mtime)
    ready_s = next(part.begins_s for part in parts if part.part == "first step")
    processors = [
        {"process": name, "processor_s": used_s} for name, used_s in _used(samples, command_s + ready_s).items()
    ]
    total_s = sum(row["processor_s"] for row in processors)
    return {
        "start_s": ready_s,
        "start_processor_s": total_s,
        "start_raw": {
            "tables": {
                "": [part._asdict() | {"seconds": part.ends_s - part.begins_s} for part in parts],
                "Processor time until the first step": [
                    *(row for row in processors if row["processor_s"] >= LEAST_S),
                    {"process": "all, those below 0.2 s included", "processor_s": total_s},
                ],
            },
            "notes": [f"The machine's load average before the second start was {load:.1f}, the first start included."],
        },
    }


def _start(name: str, runs: Path) -> tuple[float, list[tuple[float, dict[tuple[int, str], float]]]]:
    """Runs the command; when it was given, and what every process had used [s] at one moment after the other."""
    command = [sys.executable, "-m", "sdft_ray.launch", *SETTINGS, f"runs_dir={runs}", f"name={name}"]
    samples = []
    with (runs / f"{name}.out").open("w") as output:
        command_s = time.time()
        process = psutil.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        while process.poll() is None:
            samples.append((time.time(), dict(_times(process))))
            time.sleep(SAMPLE_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"the demo ended with {process.returncode}:\n{(runs / f'{name}.out').read_text()[-3000:]}")
    return command_s, samples


def _times(process: psutil.Process) -> Iterator[tuple[tuple[int, str], float]]:
    for member in family(process):
        try:
            times = member.cpu_times()
            yield (member.pid, member.name().partition(".")[0]), times.user + times.system
        except psutil.NoSuchProcess:  # it ended meanwhile
            continue


def _used(samples: Sequence[tuple[float, dict[tuple[int, str], float]]], until_s: float) -> dict[str, float]:
    """Processor time [s] by the last name that each process had, those of one name together; most first."""
    last: dict[int, tuple[str, float]] = {}
    for time_s, sample in samples:
        if time_s <= until_s:
            last |= {pid: (name, used_s) for (pid, name), used_s in sample.items()}
    by_name: dict[str, float] = {}
    for name, used_s in last.values():
        by_name[name] = by_name.get(name, 0.0) + used_s
    return dict(sorted(by_name.items(), key=lambda item: -item[1]))


def read_log(path: Path) -> list[Line]:
    """The lines that were also said on the terminal."""
    lines = []
    for line in path.read_text().splitlines():
        stamp, _, text = line.partition(" sdft_ray.tracking.console INFO ")
        if text:
            lines.append(Line(datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp(), text))
    return lines


def parts_of(lines: Sequence[Line], command_s: float, read_s: float) -> list[Part]:
    """The parts of a start by when they begin.

    Args:
        lines: of driver.log; the first stands where Ray has started.
        command_s: when the command was given, since the epoch.
        read_s: when model and data were read: the driver then locks the run folder.
    """
    parts = [
        Part("imports, model and data", 0.0, read_s - command_s),
        Part("Ray", read_s - command_s, lines[0].time_s - command_s),
    ]
    for pattern, name in PARTS.items():
        begun = [(match, line) for line in lines if (match := re.fullmatch(rf"{pattern} \.\.\.", line.text))]
        for match, line in begun:
            end = next(other for other in lines if re.fullmatch(rf"{re.escape(line.text)} \d+ s", other.text))
            parts.append(Part(name.format(*match.groups()), line.time_s - command_s, end.time_s - command_s))
    parts.sort(key=lambda part: part.begins_s)
    stepped = next(line for line in lines if FIRST_STEP.match(line.text))
    return [*parts, Part("first step", parts[-1].ends_s, stepped.time_s - command_s)]


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
