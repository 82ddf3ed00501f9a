"""Which steps are traced, and how the spans of driver and workers come together in a file of the run folder.

Recording begins two steps ahead of the first traced step, so that what a step finds going on is in its trace, and ends
behind the last. Before and after, nothing is recorded, and no worker is asked anything.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from sdft_ray.errors import SdftError, first_line
from sdft_ray.records import Span
from sdft_ray.tracking.console import ConsoleSink
from sdft_ray.tracking.earlier import move_to_earlier
from sdft_ray.tracking.metrics import WORKER_ROLES
from sdft_ray.tracking.trace import DRIVER, STEP, ProcessSpans, Window, chrome_trace
from sdft_ray.workers.deadlines import Work
from sdft_ray.workers.group import WorkerGroup
from sdft_ray.workers.spans import begin_recording, end_recording, recorded

TRACES = "traces"
AHEAD = 2  # steps that recording begins before the first traced one
SPANS = Work("spans", in_turn=False)
# What is told of a step, of its metrics.
FACTS = ("loop/wait_s", "loop/staleness_max", "rollout/tokens", "learner/train_tokens", "learner/loss")


class Tracer:
    """Traces the steps of `tracking.trace_steps`; `watch` is a `tracker.Watcher`."""

    def __init__(self, steps: list[int], run_dir: Path, console: ConsoleSink):
        """Records nothing yet."""
        self._asked = frozenset(steps)
        self._batch_size = 0
        self._folder = run_dir / TRACES
        self._console = console
        self._groups: Mapping[str, WorkerGroup] = {}
        self._traced: dict[int, Span] = {}  # steps that have ended, and are in no file yet
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def around(self, groups: Mapping[str, WorkerGroup], version: int, batch_size: int) -> AsyncIterator[None]:
        """Inside the block, which trains, traces what these workers do from step `version` + 1 on."""
        self._groups, self._batch_size = groups, batch_size
        self._prepare(version)
        try:
            yield
            self._end_stretch(time.time_ns())
            await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._traced.clear()
            end_recording()

    def watch(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Takes note of a step that has ended; has a trace written behind the last of several in a row."""
        if not self._asked:
            return {}
        ended = next((span for span in reversed(recorded()) if span.name == STEP), None)
        if ended is not None and step not in self._asked:
            self._end_stretch(ended.start_ns)
        elif ended is not None:
            facts = {key: metrics[key] for key in FACTS if key in metrics}
            self._traced[step] = replace(ended, facts={STEP: step, "sequences": self._batch_size, **facts})
        self._prepare(step)
        return {}

    def _prepare(self, step: int) -> None:
        if any(step < asked <= step + AHEAD for asked in self._asked):
            begin_recording()
            self._begin(self._record())

    def _end_stretch(self, end_ns: int) -> None:
        """Has what was traced so far written; the window ends at `end_ns`."""
        steps, self._traced = self._traced, {}
        if steps:
            self._begin(self._write(Window(steps=steps, end_ns=end_ns), recorded()))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _record(self) -> None:
        try:
            for group in self._groups.values():
                await group.on_serving(lambda actor: actor.begin_spans.remote(), SPANS)
        except SdftError as error:
            self._console.say(f"not traced     {first_line(error)}")

    async def _write(self, window: Window, own: Sequence[Span]) -> None:
        first, last = min(window.steps), max(window.steps)
        ends = last == max(self._asked)
        if ends:
            end_recording()
        driver = ProcessSpans(name=DRIVER, node=ray.util.get_node_ip_address(), process_id=os.getpid(), spans=own)
        path = self._folder / (f"steps-{first}-{last}.json" if first < last else f"step-{first}.json")
        try:
            groups = [self._groups[role] for role in WORKER_ROLES if role in self._groups]
            workers = [process for group in groups for process in await _spans_of(group, ends)]
            self._folder.mkdir(exist_ok=True)
            move_to_earlier(path)
            path.write_text(json.dumps(chrome_trace(window, driver, workers)))
        except SdftError as error:
            self._console.say(f"not traced     steps {first} to {last}: {first_line(error)}")
        except OSError as error:
            self._console.say(f"not written    {path} ({error.strerror or error}); training goes on")
        else:
            self._console.say(f"trace          {path}  (open it in Perfetto)")


async def _spans_of(group: WorkerGroup, ends: bool) -> list[ProcessSpans]:
    """What every worker of a role has done, in rank order."""
    answers = await group.on_serving(lambda actor: actor.spans.remote(ends), SPANS)
    return [
        ProcessSpans(
            name=f"{status.role} worker {status.rank}", node=status.node, process_id=status.process_id, spans=spans
        )
        for _, (status, spans) in sorted(answers.items())
    ]
