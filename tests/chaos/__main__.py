"""`python -m tests.chaos`: a whole run under a schedule of faults; writes runs/chaos/latest.json.

With `short` it takes a fifth of the faults, `seed=N` another order. What it needs, and what counts as passed, stands
in docs/reliability.md.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.cable import Cable
from tests.chaos.machine import MARK, Machine, marked_processes
from tests.chaos.saboteur import flip_a_bit
from tests.chaos.schedule import END, SIGKILL_DAMAGE, SIGTERM, Leg, make_schedule
from tests.chaos.verdict import figures, lines, trained
from tests.cluster.command import ROOT, SETTINGS, users_environment
from tests.full_disk import small_file_system
from tests.tiny import make_tiny_model

OUT = ROOT / "runs" / "chaos"
BATCH, NUM_EXAMPLES, EVERY = 4, 8, 5
DISK_KIB = 48 * 1024
LEG_TIMEOUT_S, STRIKE_TIMEOUT_S, END_TIMEOUT_S, GONE_TIMEOUT_S = 300.0, 200.0, 240.0, 60.0
ENDLESS, LAST_STEPS = 1_000_000, 12
RUN = [
    "name=run",
    "resume=auto",
    f"checkpoint_every={EVERY}",
    f"tracking.num_samples={BATCH}",  # the whole batch
    "learner.schedule=CONSTANT",
    "loss.skip_first_tokens=0",
    "preflight=false",  # the disk is small on purpose
    "faults.hang_s=15",
    "faults.first_call_s=90",
    "faults.max_restarts=1000",
    "faults.learner_restarts=1000",
    "faults.max_failed_saves=1000",
]


class Chaos:
    """One run, leg by leg."""

    def __init__(self, machine: Machine, disk: Path, model: str):
        self._machine = machine
        self._disk = disk
        self._model = model
        self.run_dir = disk / "run"
        self.events = OUT / "events.jsonl"
        self.codes: list[int] = []
        self.problems: list[str] = []

    def live_through(self, number: int, leg: Leg) -> bool:
        """Returns whether it is worth going on with the next leg."""
        num_steps = ENDLESS if leg.end != END else self._last_step() + 30 * len(leg.strikes) + LAST_STEPS
        driver = self._start(number, leg, num_steps)
        try:
            is_done = self._wait(driver, leg)
            if is_done and leg.end != END:
                driver.send_signal(signal.SIGTERM if leg.end == SIGTERM else signal.SIGKILL)
            code = driver.wait(timeout=END_TIMEOUT_S) if is_done else 1
        except subprocess.TimeoutExpired:
            is_done, code = False, 1
        finally:
            driver.kill()
            driver.wait()
        self.codes.append(code)
        expected = {END: 0, SIGTERM: 143}.get(leg.end, -9)
        if not is_done or code != expected:
            self.problems.append(f"leg {number} ended with {code}, not {expected}: {self._log(number)}")
            return False
        if leg.end == SIGKILL_DAMAGE:
            flip_a_bit(max((self.run_dir / "checkpoints").glob("step-??????")))
        return True

    def _start(self, number: int, leg: Leg, num_steps: int) -> subprocess.Popen[bytes]:
        strikes = json.dumps([asdict(strike) for strike in leg.strikes])
        command = [sys.executable, "-m", "tests.chaos.driver", strikes, str(self.events), str(self.run_dir)]
        command += [*SETTINGS, *RUN, f"num_steps={num_steps}", f"model.path={self._model}", f"runs_dir={self._disk}"]
        environment = users_environment(
            RAY_ADDRESS=self._machine.address,
            CHAOS_PID=str(os.getpid()),
            CHAOS_EVERY=str(EVERY),
            CHAOS_HEAD_RAYLET=str(self._machine.head_raylet),
        )
        print(f"leg {number}: {', '.join(strike.name for strike in leg.strikes)}; then {leg.end}", flush=True)
        with self._log(number).open("w") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def _wait(self, driver: subprocess.Popen[bytes], leg: Leg) -> bool:
        """Returns whether the strikes of the leg have been survived; False where one is not, or not in time."""
        before, deadline, seen = len(self._ends()), time.monotonic() + LEG_TIMEOUT_S, len(lines(self.events))
        while driver.poll() is None:
            self._machine.mend()
            events = lines(self.events)
            if len(events) > seen:
                for event in events[seen:]:
                    print(f"  {event}", flush=True)
                seen, deadline = len(events), time.monotonic() + STRIKE_TIMEOUT_S
            if len(self._ends()) > before:
                return True
            if time.monotonic() > deadline:
                self.problems.append(f"nothing has happened for {STRIKE_TIMEOUT_S:.0f} s after {events[-1:]}")
                return False
            time.sleep(0.5)
        return len(self._ends()) > before

    def _ends(self) -> list[dict[str, Any]]:
        return [event for event in lines(self.events) if event["state"] == "leg done"]

    def _last_step(self) -> int:
        return max((line["step"] for line in lines(self.run_dir / "metrics.jsonl")), default=0)

    def _log(self, number: int) -> Path:
        return OUT / f"leg-{number}.log"


def main(arguments: list[str]) -> int:
    """Runs and writes; 0 where the run has passed."""
    seed = next((int(argument[5:]) for argument in arguments if argument.startswith("seed=")), 0)
    cable = _cable()
    legs = make_schedule(seed, short="short" in arguments, has_cable=cable is not None)
    mark = os.environ[MARK] = uuid.uuid4().hex
    OUT.mkdir(parents=True, exist_ok=True)
    for old in [*OUT.glob("leg-*.log"), OUT / "events.jsonl"]:
        old.unlink(missing_ok=True)
    began = time.monotonic()
    with ExitStack() as opened:
        home = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        disk = opened.enter_context(small_file_system(home / "disk", DISK_KIB))
        if cable:
            opened.callback(cable.close)
        machine = Machine(cable)
        chaos = Chaos(machine, disk, make_tiny_model(home / "model", context=1024))
        try:
            for number, leg in enumerate(legs):
                if not chaos.live_through(number, leg):
                    break
        except KeyboardInterrupt:
            chaos.problems.append("interrupted")
        finally:
            machine.close()
        result = figures(legs, lines(chaos.events), chaos.codes)
        result |= trained(chaos.run_dir, BATCH, NUM_EXAMPLES)
        for name in ("metrics.jsonl", "samples.jsonl", "faults.jsonl", "logs/driver.log"):
            if (chaos.run_dir / name).exists():
                (OUT / Path(name).name).write_bytes((chaos.run_dir / name).read_bytes())
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(1)
    result |= {
        "processes_left": len(left),
        "shared_memory_left": machine.shared_memory_left(),
        "seed": seed,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "problems": chaos.problems + [f"left: {' '.join(process.cmdline())[:100]}" for process in left],
    }
    for process in left:
        process.kill()
    result["passed"] = is_passed(result)
    (OUT / "latest.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0 if result["passed"] else 1


def _cable() -> Cable | None:
    try:
        return Cable()
    except PermissionError as error:
        print(f"no network is cut: {error}")
        return None


def is_passed(result: dict[str, Any]) -> bool:
    """True when all was survived, nothing was lost or counted twice, and nothing is left."""
    nothing = ("examples_lost", "examples_trained_twice", "processes_left", "shared_memory_left", "problems")
    is_whole = result["faults_survived"] == result["faults_planned"] and result["steps_in_order"]
    return is_whole and not any(result[key] for key in nothing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
