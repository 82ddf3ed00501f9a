"""Saving on the driver's side: when a checkpoint counts, which are kept, and what happens when the disk is full.

With Saving.BACKGROUND training stands still only until every rank has copied its part into host memory; the ranks write
from there while the next steps are trained, and the driver completes the checkpoint once all have. DeepSpeed's own
engines for this (`checkpoint_engine/`) save its own files, one layout for each, without the average and without a
checksum; so they are not used.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sdft_ray.config import Best, Saving
from sdft_ray.errors import CheckpointError
from sdft_ray.learner.checkpoint import complete, complete_checkpoints, partial_folder, prune
from sdft_ray.learner.manifest import SavedFile
from sdft_ray.records import SampleReport
from sdft_ray.workers.deadlines import Pace, Work
from sdft_ray.workers.group import WorkerGroup

SAVE, SAVED = Work("save", pace=Pace.STORAGE), Work("saved", in_turn=False)

T = TypeVar("T")

POLL_S = 0.2  # between two questions whether the ranks have written


class BestCheckpoint:
    """A sink that remembers, step by step, the metric by which the best checkpoint is kept."""

    def __init__(self, metric: str = "", better: Best = Best.HIGHEST):
        """Knows no value yet; `metric` "" keeps no best checkpoint."""
        self._metric = metric
        self._better = better
        self._values: dict[int, float] = {}

    def take_over(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Begins again with these lines of metrics.jsonl: those of the run up to the step that it goes on from."""
        self._values.clear()
        for line in history:
            self._add(line["step"], line)

    def log_step(
        self, step: int, time_s: float, metrics: Mapping[str, float], samples: tuple[SampleReport, ...]
    ) -> None:
        """Takes the metrics of a step."""
        self._add(step, metrics)

    def log_evaluation(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of an evaluation."""
        self._add(step, metrics)

    def close(self) -> None:
        """Nothing to end."""

    def choose(self, root: Path) -> tuple[Path, float] | None:
        """The checkpoint with the best value, the latest of equals, and the value; None where none has one."""
        sign = 1.0 if self._better is Best.HIGHEST else -1.0
        valued = [
            (sign * self._values[step], step, folder)
            for folder in complete_checkpoints(root)
            if (step := int(folder.name.removeprefix("step-"))) in self._values
        ]
        if not valued:
            return None
        value, _, folder = max(valued)
        return folder, sign * value

    def summary(self, root: Path) -> dict[str, Any] | None:
        """The choice as plain containers."""
        chosen = self.choose(root)
        if chosen is None:
            return None
        folder, value = chosen
        return {"folder": f"{root.name}/{folder.name}", "metric": self._metric, "value": value}

    def _add(self, step: int, metrics: Mapping[str, Any]) -> None:
        value = metrics.get(self._metric)
        if isinstance(value, int | float) and value == value:
            self._values[step] = value


@dataclass(kw_only=True, slots=True)
class SavingPlan:
    """How a run's checkpoints are saved."""

    root: Path  # the folder that holds them
    keep: int = 2
    best: BestCheckpoint = field(default_factory=BestCheckpoint)
    saving: Saving = Saving.BLOCKING
    saves: bool = True  # whether checkpoints are saved while training goes on
    max_failed_saves: int = 1  # in a row
    num_damaged: int = 0  # checkpoints that this start has passed over
    # What the checkpoints tell of their run: the identity of its model, and whatever a person may want to know.
    facts: Mapping[str, Any] = field(default_factory=lambda: {"model": {}})
    say: Callable[[str], None] = print
    check_held: Callable[[], None] = lambda: None  # raises where the run folder is no longer this run's


class CheckpointWriter:
    """Has the ranks write, and completes, prunes and counts."""

    def __init__(self, workers: WorkerGroup, plan: SavingPlan):
        self._workers = workers
        self._plan = plan
        self._writing: asyncio.Task[None] | None = None
        self._num_failed = 0  # in a row
        self._metrics = {"loop/damaged_checkpoints": float(plan.num_damaged)} if plan.num_damaged else {}
        self.saved_version = 0  # the newest that was completed
        self._saved_at = time.monotonic()

    async def save(self, version: int, state: Mapping[str, Any], *, wait: bool) -> None:
        """Saves the weights of `version`; returns when training may go on, or with `wait` when all is on the disk.

        Raises:
            CheckpointError: too many saves in a row have failed, or the folder is another run's by now.
        """
        started = time.monotonic()
        await self.finish()
        self._plan.check_held()
        try:
            folder = partial_folder(self._plan.root, version)
        except OSError as error:
            self._fail(version, _why(error))
        else:
            background = self._plan.saving is Saving.BACKGROUND
            answers = await self._workers.on_all(lambda actor: actor.save.remote(str(folder), background), SAVE)
            self._writing = asyncio.create_task(self._complete(folder, version, state, answers))
            if wait or not background:
                await self.finish()
        self._metrics["learner/save_s"] = self._metrics.get("learner/save_s", 0.0) + time.monotonic() - started

    async def finish(self) -> None:
        """Returns when the save under way is completed or has failed. Raises as `save`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def abandon(self) -> None:
        """Gives up the save under way, whose ranks are lost; its folder is none, and the next save empties it.

        One of which all ranks have written is completed first: a thread goes on whoever waits for it.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.cancel()
            await asyncio.wait([writing])

    def take_metrics(self) -> dict[str, float]:
        """What saving came to since the last call, by metric key, and how old the newest checkpoint is."""
        taken, self._metrics = self._metrics, {}
        return taken | ({"learner/checkpoint_age_s": time.monotonic() - self._saved_at} if self._plan.saves else {})

    async def _complete(
        self, folder: Path, version: int, state: Mapping[str, Any], answers: Sequence[SavedFile | str | None]
    ) -> None:
        while any(answer is None for answer in answers):  # a rank is still writing
            await asyncio.sleep(POLL_S)
            answers = await self._workers.on_all(lambda actor: actor.saved.remote(), SAVED)
        why = [answer for answer in answers if isinstance(answer, str)]
        if not why:
            files = [answer for answer in answers if isinstance(answer, SavedFile)]
            try:
                self._plan.check_held()
                state = {"weight_version": version, **self._plan.facts, **state}
                await _in_thread(complete, folder, state, files)  # the loop goes on meanwhile
            except OSError as error:
                why = [_why(error)]
        if why:
            shutil.rmtree(folder, ignore_errors=True)  # makes room for the next attempt
            self._fail(version, why[0])
        else:
            self.saved_version, self._num_failed, self._saved_at = version, 0, time.monotonic()
            await self._prune()

    async def _prune(self) -> None:
        best = self._plan.best.choose(self._plan.root)
        try:
            await _in_thread(prune, self._plan.root, self._plan.keep, best and best[0])
        except OSError as error:
            self._plan.say(
                f"not removed    an old checkpoint in {self._plan.root} ({_why(error)}); the next save tries again"
            )

    def _fail(self, version: int, why: str) -> None:
        self._num_failed += 1
        self._metrics["learner/failed_saves"] = self._metrics.get("learner/failed_saves", 0.0) + 1.0
        earlier = complete_checkpoints(self._plan.root)
        there = f"{earlier[-1]} stays" if earlier else "there is no earlier one"
        said = f"the checkpoint of step {version} could not be written ({why}); {there}"
        if self._num_failed >= self._plan.max_failed_saves:
            raise CheckpointError(
                f"{said}. That was save {self._num_failed} in a row, and faults.max_failed_saves="
                f"{self._plan.max_failed_saves}: make room or mend the disk, then go on with resume=auto."
            )
        self._plan.say(f"not saved      {said}; training goes on, and the next save tries again")


async def _in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Has a thread run `function`; cancelled, it ends with the thread, so that nothing is renamed behind its back."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _why(error: OSError) -> str:
    return f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)
