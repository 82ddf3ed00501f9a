"""The algorithm: sample, score, learn, and have both pools load the new weights (arXiv 2601.19897).

Two coroutines share a buffer. Producers turn examples into scored samples; the learner turns batches of them into
new weights, and begins with the first samples of a batch while the last are still being made. With `max_staleness=0`
every sample is made by the newest weights, which is the paper's exactly on-policy algorithm; a larger bound lets
producers run ahead by that many steps. Nothing here knows what a process, a tensor or a vendor is.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sdft_ray.buffer import SampleBuffer
from sdft_ray.records import make_sample
from sdft_ray.roles import Completions, Evaluator, Examples, Learner, Teacher, Tracker
from sdft_ray.tracking.phases import Counts, PhaseTimer


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """What the loop itself has to know."""

    num_steps: int  # weight version with which training ends
    batch_size: int
    first_step: int = 0  # weight version with which these examples began
    max_staleness: int = 0
    evaluate_every: int = 0  # steps; 0 never inside the loop
    checkpoint_every: int = 0  # steps, and after the last; 0 never


class Stopped(Exception):
    """Training was asked to stop, and has."""


async def train(
    cfg: LoopConfig,
    *,
    examples: Examples,
    completions: Completions,
    teacher: Teacher,
    learner: Learner,
    evaluator: Evaluator,
    tracker: Tracker,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Trains until the learner has taken `num_steps` steps in all, or stops behind one, with a checkpoint.

    Raises:
        ExceptionGroup: whatever failed first in any role, or `Stopped`; everything else is cancelled by then.
    """
    buffer = SampleBuffer(
        batch_size=cfg.batch_size, max_staleness=cfg.max_staleness, num_batches=cfg.num_steps - learner.weight_version
    )
    timer, counts = PhaseTimer(), Counts()

    async def produce_samples() -> None:
        async for ticket in buffer.tickets():  # waits while max_staleness versions ahead of the learner
            example = next(examples)
            with timer.phase("loop/rollout_s"):
                rollout = await completions.complete(example)  # 1. y ~ student(. | x)
            counts.add("rollout/tokens", rollout.num_sampled)
            with timer.phase("loop/score_s"):
                scores = await teacher.score(example, rollout)  # 2. teacher(. | x, demonstration, y_<t) at every t
            counts.add("teacher/tokens", scores.num_scored)
            sample = make_sample(example, rollout, scores)
            await buffer.put(ticket, sample)
            # The last handle of a payload is the learner's: its memory is free once it has been trained on.
            del scores, sample

    async def learn() -> None:
        while learner.weight_version < cfg.num_steps:
            with timer.phase("loop/step_s"):
                # 3. per-token divergence, sample by sample; 4. ema_decay * old + (1 - ema_decay) * student
                report = await learner.step(buffer.batch())
                version = learner.weight_version
                with timer.phase("loop/load_weights_s"):  # 5. both pull what they need of it from the learner
                    await asyncio.gather(completions.load_weights(version), teacher.load_weights(version))
                await buffer.close_batch()  # only now may the next samples start: they see the new weights
            tracker.log_step(version, report.metrics | counts.take() | timer.take(), report)
            is_last = version == cfg.num_steps
            if cfg.evaluate_every and version % cfg.evaluate_every == 0 and not (is_last or is_asked_to_stop()):
                tracker.log_evaluation(version, await evaluator.evaluate(version))
            stops = is_asked_to_stop() and not is_last  # also where it was asked while it evaluated
            if cfg.checkpoint_every and (version % cfg.checkpoint_every == 0 or stops or is_last):
                state = examples.state_at((version - cfg.first_step) * cfg.batch_size)
                await learner.save_checkpoint(state, wait=stops or is_last)
            if stops:
                raise Stopped

    async with asyncio.TaskGroup() as tasks:
        for _ in range(buffer.capacity):
            tasks.create_task(produce_samples())
        tasks.create_task(learn())
