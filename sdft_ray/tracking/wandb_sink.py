"""Weights & Biases, offline (files in the run folder, no account) or online."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sdft_ray.config import TrackingConfig, Wandb
from sdft_ray.errors import ConfigError, first_line
from sdft_ray.records import SampleReport
from sdft_ray.tracking.disagreements import disagreement_rows
from sdft_ray.tracking.earlier import move_to_earlier
from sdft_ray.tracking.jsonl import Decode
from sdft_ray.tracking.metrics import METRICS

RUN_ID_FILE = "wandb_run_id"
DISAGREEMENTS = "samples/disagreements"
SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "init_timeout": 30.0,  # seconds until the server has answered
    "finish_timeout": 60.0,  # seconds until it has taken what is left at the end
    "finish_timeout_raises": True,
}

Mode = Literal["online", "offline"]
NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")  # of an artifact


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """What wandb finds a run by."""

    name: str
    group: str  # of runs that differ in their seed alone
    tags: tuple[str, ...] = ()
    stage_of: Callable[[int], str] = lambda step: ""  # the stage that a step lies in; "" without stages

    def arguments(self) -> dict[str, Any]:
        """What `wandb.init` takes of it."""
        return {"name": self.name, "group": self.group, "tags": self.tags, "job_type": "train"}


class WandbSink:
    """The sink that logs to one Weights & Biases run.

    `step` is an ordinary metric and the x axis of all others: wandb's own counter accepts neither an
    evaluation of a step that was logged before nor the steps a resumed run takes again. Training never waits for
    wandb's server, and never ends with it: where it is not reached the files stay in the run folder.
    """

    def __init__(
        self,
        cfg: TrackingConfig,
        *,
        labels: Labels,
        run_dir: Path,
        settings: Mapping[str, Any],
        decode: Decode,
        resumed: bool,
        say: Callable[[str], None],
    ):
        """Starts the run, or goes on with the one that this run folder began.

        Args:
            cfg: mode (not DISABLED), project, and whether the final model goes there.
            labels: by which wandb names and groups the run.
            run_dir: wandb writes to the folder wandb/ in it.
            settings: the resolved configuration, as plain containers.
            decode: token ids to text.
            resumed: whether to go on with the run whose id the run folder holds.
            say: prints a line; told once that the server is not reached.

        Raises:
            ConfigError: online without an account, or with one that the server refuses.
        """
        # Here and not above: the import takes seconds, and most runs do without it.
        import wandb

        self._make_table, self._make_artifact = wandb.Table, wandb.Artifact
        self._has_artifact, self._labels = cfg.wandb_artifact, labels
        self._decode = decode
        self._disagreements: list[dict[str, Any]] = []  # of the samples since the last table
        id_file = run_dir / RUN_ID_FILE
        run_id = (id_file.read_text() if resumed and id_file.exists() else "") or None  # a full disk leaves it empty
        self._say = say
        self._folder = run_dir / "wandb"
        self._errors = (wandb.errors.Error, OSError)  # the second of wandb's own process, if that has died
        self._is_lost = False

        def begin(mode: Mode) -> Any:
            return wandb.init(
                project=cfg.wandb_project,
                **labels.arguments(),
                id=run_id,
                resume="allow",
                dir=run_dir,
                mode=mode,
                config=dict(settings),
                settings=wandb.Settings(**SETTINGS),
            )

        self._run = self._begin(begin, cfg.wandb, wandb.errors)
        if run_id != self._run.id:
            move_to_earlier(id_file)
            id_file.write_text(self._run.id)
        self._run.define_metric("step")
        for role in sorted({metric.key.partition("/")[0] for metric in METRICS}):
            self._run.define_metric(f"{role}/*", step_metric="step")
        self._run.define_metric(DISAGREEMENTS, step_metric="step")

    def _begin(self, begin: Callable[[Mode], Any], chosen: Wandb, errors: Any) -> Any:
        """The run of `begin`; offline where nobody answers. `errors` are wandb's."""
        try:
            return begin("offline" if chosen is Wandb.offline else "online")
        except errors.CommError as error:
            self._lose(first_line(error))
            self._is_lost = False  # files are written all the same
            return begin("offline")
        except errors.Error as error:
            remedy = "run `wandb login`, or set tracking.wandb=offline"
            raise ConfigError("tracking.wandb", chosen.name, str(error), remedy) from error

    def log_step(
        self, step: int, time_s: float, metrics: Mapping[str, float], samples: tuple[SampleReport, ...]
    ) -> None:
        """Logs the step's metrics, and keeps its samples for the next table."""
        self._log(self._place(step, time_s) | dict(metrics))
        for sample in samples:
            place = {"step": step, "example_id": sample.example_id}
            self._disagreements += [place | row for row in disagreement_rows(sample, self._decode)]

    def log_evaluation(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Logs the evaluation's metrics, and a table of what both sides disagreed on since the one before."""
        self._log(self._place(step, time_s) | dict(metrics))
        self._log_table()

    def log_model(self, folder: Path) -> None:
        """Hands the final student over as an artifact, where that is asked for; its files are not copied before."""
        if not self._has_artifact or self._is_lost:
            return
        artifact = self._make_artifact(NOT_IN_A_NAME.sub("-", self._labels.name) + "-model", type="model")
        for file in (path for path in folder.rglob("*") if path.is_file()):  # wandb's own way of a folder prints lines
            artifact.add_file(str(file), str(file.relative_to(folder)), policy="immutable", skip_cache=True)
        try:
            self._run.log_artifact(artifact)
        except self._errors as error:
            self._lose(first_line(error))

    def close(self) -> None:
        """Writes or sends what is left."""
        self._log_table()
        if self._is_lost:
            return
        try:
            self._run.finish()
        except (TimeoutError, *self._errors) as error:
            self._lose(first_line(error))

    def _place(self, step: int, time_s: float) -> dict[str, Any]:
        stage = self._labels.stage_of(step)
        return {"step": step, "time_s": time_s} | ({"stage": stage} if stage else {})

    def _log_table(self) -> None:
        """One table an evaluation and not one a step: each is a file of its own."""
        rows, self._disagreements = self._disagreements, []
        if rows:
            table = self._make_table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            self._log({"step": rows[-1]["step"], DISAGREEMENTS: table})

    def _log(self, values: Mapping[str, Any]) -> None:
        if self._is_lost:
            return
        try:
            self._run.log(dict(values))
        except self._errors as error:
            self._lose(first_line(error))

    def _lose(self, reason: str) -> None:
        """Says that the server has not everything; the run's own files have."""
        self._is_lost = True
        self._say(
            f"wandb          is not reached ({reason}); the run goes on, metrics.jsonl has everything, and "
            f"'wandb sync' sends what lies in {self._folder}"
        )
