"""What a run writes and adds up of its steps, as one: all of it goes back where steps are taken again."""

from pathlib import Path

from sdft_ray.config import AlarmsConfig
from sdft_ray.learner.saving import BestCheckpoint
from sdft_ray.tracking.alarms import Alarms
from sdft_ray.tracking.console import ConsoleSink
from sdft_ray.tracking.jsonl import Decode, JsonLines
from sdft_ray.tracking.summary import Summary


class RunRecords:
    """Lines of metrics and samples, the summary, the best checkpoint and the alarms."""

    def __init__(
        self,
        run_dir: Path,
        decode: Decode,
        resumed_step: int | None,
        *,
        alarms: AlarmsConfig,
        best: BestCheckpoint,
        console: ConsoleSink,
    ):
        """Begins them, or goes on behind `resumed_step`; see `JsonLines` and `Alarms`.

        Raises:
            CheckpointError: a line before the last is not JSON.
        """
        self.lines = JsonLines(run_dir, decode, resumed_step, console.say)
        self.summary = Summary(self.lines.history)
        self.alarms = Alarms(
            alarms, run_dir=run_dir, say=console.say, history=self.lines.history, resumed_step=resumed_step
        )
        self._best = best
        best.take_over(self.lines.history)
        self.sinks = (self.lines, self.summary, best, console)

    def begin_stage(self, name: str) -> None:
        """Names the stage of what follows; "" for a run without stages."""
        self.lines.begin_stage(name)
        self.alarms.begin_stage(name)

    def go_back_to(self, step: int, stage: str) -> None:
        """Takes back what came after `step`, which lies in `stage`: those steps are taken again."""
        self.lines.go_back_to(step)
        self.summary.take_over(self.lines.history)
        self._best.take_over(self.lines.history)
        self.alarms.take_over(self.lines.history, step)
        self.begin_stage(stage)

    def close(self) -> None:
        """Closes the file of alarms; sinks are closed by their tracker."""
        self.alarms.close()
