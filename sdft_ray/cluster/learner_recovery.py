"""How a run survives the loss of its learner: all ranks are started anew from the newest checkpoint, in the same job.

The loop has ended by then, with all that was open in it. Rollout and teacher workers go on running. They load the
restored weights, and the loop begins again behind the restored step: samples of later weights are dropped and made
again, so each example counts once in the weights that come out.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from sdft_ray.cluster.run_folder import EVALUATED_FILES, RunFolder
from sdft_ray.cluster.stages import Stage
from sdft_ray.cluster.topology import Roles
from sdft_ray.config import RunConfig
from sdft_ray.errors import (
    BrokenWeightsError,
    CheckpointError,
    PayloadLostError,
    WorkerError,
    WorkerLostError,
    first_line,
)
from sdft_ray.faults import Fault, FaultKind
from sdft_ray.learner.checkpoint import abandon_later, newest_sound, read_state
from sdft_ray.learner.manifest import check_sound
from sdft_ray.outcome import first_cause
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.tracking.console import ConsoleSink
from sdft_ray.tracking.jsonl import cut_after


class LearnerRecovery:
    """Restores the learner of a run, as often as `faults.learner_restarts` allows."""

    def __init__(self, cfg: RunConfig, folder: RunFolder, console: ConsoleSink, tell: Callable[[Fault], None]):
        self._cfg = cfg
        self._folder = folder
        self._console = console
        self._tell = tell
        self._num_restarts = 0

    async def restore(self, failures: BaseExceptionGroup, stage: Stage, roles: Roles) -> None:
        """Returns when the loop of `stage` can begin again, at the version that the learner then holds.

        Raises:
            BaseExceptionGroup: `failures`. It was not the learner that was lost, and a checkpoint of what it holds
                has been saved; or the learner cannot be restored.
        """
        loss, lost_at = await _learner_loss(roles) or _lost_payload(failures), time.monotonic()
        if loss is None:
            await self._save(stage, roles)
            raise failures
        await roles.learner.checkpoints.abandon()
        checkpoint = await asyncio.to_thread(self._newest_sound)
        if checkpoint is None and self._folder.resumed_step:  # it has nothing of what the run began with
            raise failures
        first = 0 if checkpoint is None else read_state(checkpoint)["weight_version"]
        if first < stage.first_step:  # the run saves no checkpoints, and has finished a stage
            raise failures
        abandon_later(checkpoint, self._folder.checkpoints)  # damaged ones must not outlive sound ones
        while loss is not None:
            self._note(FaultKind.LOST, first_line(loss))
            if self._num_restarts == self._cfg.faults.learner_restarts:
                raise failures
            self._num_restarts += 1
            with self._console.phase("building the learner anew"):
                loss = await _start_anew(roles, checkpoint)
        source = checkpoint or "the model folder"
        self._note(FaultKind.RESTORED, f"learner: goes on behind step {first}, from {source}", since=lost_at)
        self._take_back(first, stage)

    async def save_in_time(self, stage: Stage, roles: Roles) -> None:
        """Saves a checkpoint of the last whole step as `restore` does, where ranks that lose their Ray still can."""
        try:
            async with asyncio.timeout(self._cfg.faults.grace_s):
                await self._save(stage, roles)
        except TimeoutError:
            self._console.say(f"not saved      within faults.grace_s={self._cfg.faults.grace_s:g}")

    def _newest_sound(self) -> Path | None:
        """The newest sound checkpoint, or else the one of another run that this one went on from."""
        checkpoint, damages = newest_sound(self._folder.checkpoints)
        resumed = self._folder.resumed
        if checkpoint is None and resumed is not None and resumed.parent != self._folder.checkpoints:
            try:
                check_sound(resumed)
                checkpoint = resumed
            except CheckpointError as error:
                damages.append(str(error))
        for damage in damages:
            self._console.say(f"damaged        {damage}; its checkpoint is passed over")
        return checkpoint

    async def _save(self, stage: Stage, roles: Roles) -> None:
        """Saves a checkpoint of the last whole step, if the run saves any and none is there."""
        version = roles.learner.weight_version
        try:
            await roles.learner.checkpoints.finish()
        except (WorkerError, CheckpointError) as error:
            self._console.say(f"not saved      {first_line(error)}")
        if not self._cfg.checkpoint_every or version in (0, roles.learner.checkpoints.saved_version):
            return
        num_trained = (version - stage.first_step) * stage.cfg.batch_size
        try:
            await roles.learner.save_checkpoint(stage.inputs.examples.state_at(num_trained), wait=True)
        except (WorkerError, CheckpointError, BrokenWeightsError) as error:
            self._console.say(f"not saved      step {version}: {first_line(error)}")
        else:
            if roles.learner.checkpoints.saved_version == version:  # else it has said why not
                self._console.say(f"stopped        behind step {version}, with a checkpoint of it")

    def _take_back(self, version: int, stage: Stage) -> None:
        """Has the examples go on behind `version`, and what was written of later steps move to earlier/."""
        examples = stage.inputs.examples
        num_trained = (version - stage.first_step) * stage.cfg.batch_size
        num_dropped = examples.position - num_trained
        examples.load_state(examples.state_at(num_trained))
        for name in EVALUATED_FILES:
            if (self._folder.path / name).exists():
                cut_after(self._folder.path / name, version)
        self._note(FaultKind.DROPPED, f"learner: {num_dropped} samples, which are made again", count=num_dropped)

    def _note(self, kind: FaultKind, text: str, *, count: int = 1, since: float | None = None) -> None:
        seconds = 0.0 if since is None else time.monotonic() - since
        self._tell(Fault(kind=kind, role="learner", rank=-1, node="", text=text, count=count, seconds=seconds))


async def _learner_loss(roles: Roles) -> WorkerLostError | None:
    """What became of the learner, where a rank of it is lost; asks ranks that nobody was waiting for."""
    group = roles.groups["learner"]
    try:
        await group.locate()
    except WorkerLostError:
        pass
    return group.loss


def _lost_payload(failures: BaseExceptionGroup) -> PayloadLostError | None:
    """What a rank could not read, in mid-step: its gradient lacks a part, and its neighbours may wait for it."""
    found = first_cause(failures.subgroup(PayloadLostError))
    return found if isinstance(found, PayloadLostError) else None


async def _start_anew(roles: Roles, checkpoint: Path | None) -> WorkerLostError | None:
    """Starts all ranks anew and has the workers load what they then hold; the loss where a rank is lost again.

    What the workers hold is no version of it any more: the memory of a rank that died in mid-step may be half a step.
    """
    learner, group = roles.learner, roles.groups["learner"]
    async with learner.unchanged:
        group.renew([roles.makers["learner"](rank) for rank in range(group.size)])
        learner.weight_version = 0
        try:
            await learner.start()
            if checkpoint is not None:
                await learner.resume(checkpoint)
            version = learner.weight_version
            for pool in (roles.rollouts, roles.teacher):
                if isinstance(pool, RolloutPool | TeacherPool):
                    pool.forget_version()
            await asyncio.gather(roles.completions.load_weights(version), roles.teacher.load_weights(version))
        except WorkerLostError as error:
            if group.loss is None:
                raise
            return error
    return None
