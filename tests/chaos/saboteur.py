"""What strikes, inside the driver: as soon as the run is where a strike is due, and then until it has been survived."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import ray

from sdft_ray.cluster.topology import Roles
from sdft_ray.errors import WorkerLostError
from sdft_ray.faults import Fault, FaultKind
from sdft_ray.learner.checkpoint import complete_checkpoints
from sdft_ray.workers.seat import Seat
from tests.chaos import cable, schedule
from tests.chaos.schedule import Strike

FOUND = (FaultKind.LOST, FaultKind.HUNG)
MADE_GOOD = (FaultKind.REPLACED, FaultKind.RESTORED)
FULL_FOR_SAVES = 2  # failed ones, until there is room again
DAMAGED_BYTE = -100  # from the end of a file, among its tensors


class Saboteur:
    """Carries out the strikes of one leg."""

    def __init__(self, strikes: list[Strike], events: Path, run_dir: Path):
        self._strikes = strikes
        self._events = events
        self._run_dir = run_dir
        self._told: list[tuple[float, Fault]] = []
        self._pids: dict[Any, int] = {}

    def hear(self, fault: Fault) -> None:
        """Takes what the run says of itself."""
        self._told.append((time.monotonic(), fault))

    async def work(self, roles: Roles) -> None:
        """Strikes, waits until the run has taken steps again, and says so in the events' file."""
        await self._steps(roles, 2)
        for strike in self._strikes:
            await self._locate(roles)
            self._note({"strike": strike.name, "state": "due", "step": roles.learner.weight_version})
            self._told.clear()
            began = await self._act(strike, roles)
            await self._steps(roles, 2)
            self._note(
                {"strike": strike.name, "state": "survived", "step": roles.learner.weight_version}
                | self._times(strike, began)
            )
        self._note({"strike": "", "state": "leg done", "step": roles.learner.weight_version})

    async def _act(self, strike: Strike, roles: Roles) -> float:
        """Returns when it was struck, once what was lost is there again."""
        if strike.act == schedule.FULL_DISK:
            return await self._fill_disk(roles)
        if strike.act == schedule.DASHBOARD:
            nodes = psutil.Process(int(os.environ["CHAOS_PID"])).children(recursive=True)
            (dashboard,) = [process for process in nodes if "dashboard/dashboard.py" in " ".join(process.cmdline())]
            dashboard.kill()
            return time.monotonic()
        if strike.moment == schedule.BEREFT:
            await self._when(roles, schedule.ROLLOUT, schedule.GENERATING)
            self._process(roles, schedule.ROLLOUT).kill()
            await asyncio.sleep(1.0)
        elif strike.act == schedule.DAMAGE:
            await self._before_a_save(roles)
            flip_a_bit(complete_checkpoints(self._run_dir / "checkpoints")[-1])
        elif strike.moment != schedule.BETWEEN:
            await self._when(roles, strike.role, strike.moment)
        if strike.act == schedule.CUT:
            return await self._cut_network(roles)
        role = strike.role or self._role_elsewhere(roles)
        process = self._process(roles, role)
        began, role = time.monotonic(), schedule.ROLLOUT if role == schedule.ENGINE else role
        if strike.act == schedule.NODE:
            process.parent().kill()  # its raylet, with which all of the node's workers end
        elif strike.act == schedule.STOP:
            os.kill(process.pid, signal.SIGSTOP)
        else:
            process.kill()
        await self._made_good(role)
        return began

    async def _made_good(self, role: str) -> None:
        while not [fault for _, fault in self._told if fault.role == role and fault.kind in MADE_GOOD]:
            await asyncio.sleep(0.02)

    async def _cut_network(self, roles: Roles) -> float:
        """For as long as Ray takes the node for alive; it then hears that it is not, and ends."""
        role = next(role for role in roles.groups if cable.is_behind(self._process(roles, role).pid))
        (far,) = (node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] == cable.THERE)
        began = time.monotonic()
        cable.cut()
        try:
            while any(node["NodeID"] == far and node["Alive"] for node in ray.nodes()):
                await asyncio.sleep(0.5)
        finally:
            cable.mend()
        await self._made_good(role)
        return began

    def _times(self, strike: Strike, began: float) -> dict[str, Any]:
        role = schedule.ROLLOUT if strike.role == schedule.ENGINE else strike.role
        told = [(when - began, fault) for when, fault in self._told if when >= began and role in ("", fault.role)]
        found = [(when, fault.text) for when, fault in told if fault.kind in FOUND]
        good = [when for when, fault in told if fault.kind in MADE_GOOD]
        return {
            "found_s": round(found[0][0], 2) if found else None,
            "recovered_s": round(good[0], 2) if good else None,
            "found": found[0][1] if found else "",
            "all_told": [f"{fault.kind.word} {fault.role}" for _, fault in self._told],
        }

    async def _when(self, roles: Roles, role: str, moment: str) -> None:
        """Returns when a worker of the role is asked for that, not for the first time, or has nothing to do."""
        group = roles.groups[schedule.ROLLOUT if role == schedule.ENGINE else role]
        while True:
            (seat,) = group._seats
            if seat.loss is None and (not seat.num_open if moment == schedule.IDLE else _does(seat, moment)):
                return
            await asyncio.sleep(0)

    async def _before_a_save(self, roles: Roles) -> None:
        """Returns behind a checkpoint, with steps to go until the next and two to choose from."""
        root = self._run_dir / "checkpoints"
        every = int(os.environ["CHAOS_EVERY"])
        while roles.learner.weight_version % every != 1 or len(complete_checkpoints(root)) < 2:
            await asyncio.sleep(0)

    async def _fill_disk(self, roles: Roles) -> float:
        began, ballast = time.monotonic(), self._run_dir.parent / "ballast"

        def failed() -> int:
            return roles.learner.checkpoints._num_failed

        with ballast.open("wb", buffering=0) as file:
            try:
                while failed() < FULL_FOR_SAVES:  # again and again: pruning makes room
                    try:
                        while file.write(bytes(4096)):
                            pass
                    except OSError:
                        await asyncio.sleep(0.05)
            finally:
                ballast.unlink()
        while failed():
            await asyncio.sleep(0.05)
        return began

    async def _steps(self, roles: Roles, number: int) -> None:
        """Returns behind so many more steps; a version that is restored is no step."""
        last, num_taken = roles.learner.weight_version, 0
        while num_taken < number:
            await asyncio.sleep(0.01)
            num_taken += roles.learner.weight_version == last + 1
            last = roles.learner.weight_version

    async def _locate(self, roles: Roles) -> None:
        self._pids = {}
        for group in roles.groups.values():
            while any(seat.actor not in self._pids for seat in group._seats):
                try:
                    for seat, status in zip(list(group._seats), await group.status(), strict=False):
                        self._pids[seat.actor] = status.process_id
                except WorkerLostError:
                    pass  # by itself, and it will be there again
                await asyncio.sleep(0.1)

    def _process(self, roles: Roles, role: str) -> psutil.Process:
        (seat,) = roles.groups[schedule.ROLLOUT if role == schedule.ENGINE else role]._seats
        process = psutil.Process(self._pids[seat.actor])
        if role == schedule.ENGINE:
            (process,) = (
                child for child in process.children(recursive=True) if "EngineCore" in " ".join(child.cmdline())
            )
        return process

    def _role_elsewhere(self, roles: Roles) -> str:
        """A role whose worker is on another node than the head, with which the whole cluster would be gone."""
        head = int(os.environ["CHAOS_HEAD_RAYLET"])
        return next(role for role in roles.groups if self._process(roles, role).ppid() != head)

    def _note(self, event: dict[str, Any]) -> None:
        with self._events.open("a") as file:
            file.write(json.dumps(event | {"time": round(time.time(), 2)}) + "\n")


def _does(seat: Seat, kind: str) -> bool:
    """True when that is asked of the worker, and nothing that it is asked for the first time, which may take long."""
    works = list(seat._open.values())
    return any(work.kind == kind for work, _ in works) and not any(is_first for _, is_first in works)


def flip_a_bit(checkpoint: Path) -> None:
    """Damages what a rank has saved."""
    file = checkpoint / "rank-0.safetensors"
    content = bytearray(file.read_bytes())
    content[DAMAGED_BYTE] ^= 1
    file.write_bytes(content)
