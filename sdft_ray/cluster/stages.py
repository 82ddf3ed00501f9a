"""The stages of a run: the same model and method on one data set after the other.

Every stage is composed as a run of its own, so whatever a data configuration sets is the stage's. Workers are started
once, for all of them; what they were started with cannot change between stages, and is refused by name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sdft_ray.cluster.run_inputs import RunInputs, read_inputs
from sdft_ray.config import RunConfig
from sdft_ray.config.saved import flat_settings
from sdft_ray.errors import ConfigError
from sdft_ray.examples import TokenizedExample
from sdft_ray.learner.schedule import LearnerStage, StagePlan

# What a stage may have of its own: the data, and what is read of the settings with every sample or step.
OWN = (
    "check.",
    "data.",
    "evaluation.",
    "num_steps",
    "num_epochs",
    "batch_size",
    "learner.learning_rate",
    "learner.schedule",
    "learner.warmup_steps",
    "loss.skip_first_tokens",
    "rollout.max_new_tokens",
    "teacher.template",
    "teacher.context",
)


@dataclass(frozen=True, slots=True)
class Stage:
    """One data set with the steps it is learned in."""

    name: str  # "" where the run has no stages
    cfg: RunConfig
    inputs: RunInputs
    first_step: int  # the weight version it begins with

    @property
    def last_step(self) -> int:
        """The weight version it ends with."""
        return self.first_step + self.inputs.num_steps

    @property
    def for_learner(self) -> LearnerStage:
        """The learner's part of it."""
        return LearnerStage(
            num_steps=self.inputs.num_steps,
            batch_size=self.cfg.batch_size,
            skip_first_tokens=self.cfg.loss.skip_first_tokens,
            learner=self.cfg.learner,
        )

    def drawn(self) -> list[TokenizedExample]:
        """All examples it will draw, those of later epochs as well."""
        return self.inputs.examples.first(self.inputs.num_steps * self.cfg.batch_size)


class Stages:
    """All stages of a run, in their order."""

    def __init__(self, configs: Sequence[tuple[str, RunConfig]]):
        """Reads model and data.

        Args:
            configs: the name and the settings of every stage.

        Raises:
            ConfigError, DataError, ModelError: with the key, the value and the remedy.
        """
        stages: list[Stage] = []
        for name, cfg in configs:
            _check_same(name, configs[0][1], cfg)
            inputs = read_inputs(cfg)
            stages.append(Stage(name, cfg, inputs, stages[-1].last_step if stages else 0))
        self._stages = tuple(stages)
        # What workers and evaluators are made from: room for the longest of any stage, the sets of all.
        self.shared = self._share()

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages)

    @property
    def plan(self) -> StagePlan:
        """The learner's view of them."""
        return StagePlan([stage.for_learner for stage in self._stages])

    @property
    def num_steps(self) -> int:
        """Of all stages together."""
        return self._stages[-1].last_step

    def at(self, version: int) -> Stage:
        """The stage in which weights of `version` were made; the first one's begin with it."""
        return next(stage for stage in self._stages if version <= stage.last_step)

    def drawn(self) -> list[TokenizedExample]:
        """All examples the run will draw."""
        return [example for stage in self._stages for example in stage.drawn()]

    def _share(self) -> tuple[RunConfig, RunInputs]:
        first = self._stages[0]
        sets, questions = self._evaluation_sets()
        cfg = replace(first.cfg, evaluation=replace(first.cfg.evaluation, sets=sets))
        # Workers are started once: they keep the initial weights for whichever stage rehearses.
        rehearsing = next((stage.cfg.data.rehearsal for stage in self._stages if stage.cfg.data.rehearsal.is_on), None)
        if rehearsing:  # set, since `replace` would check another stage's share against the first one's batch
            cfg.data = replace(cfg.data, rehearsal=rehearsing)
        all_inputs = [stage.inputs for stage in self._stages]
        inputs = replace(
            first.inputs,
            evaluation_sets=questions,
            num_steps=self.num_steps,
            notes=tuple(dict.fromkeys(note for inputs in all_inputs for note in inputs.notes)),
            max_model_len=max(inputs.max_model_len for inputs in all_inputs),
            max_teacher_len=max(inputs.max_teacher_len for inputs in all_inputs),
        )
        return cfg, inputs

    def _evaluation_sets(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings and the questions of every set of every stage."""
        settings: dict[str, Any] = {}
        questions: dict[str, Any] = {}
        for stage in self._stages:
            for name, own in stage.cfg.evaluation.named_sets().items():
                known = settings.setdefault(name, asdict(own))
                if (
                    known != asdict(own)
                    or questions.get(name, stage.inputs.evaluation_sets[name]) != (stage.inputs.evaluation_sets[name])
                ):
                    problem = f"stage {stage.name} means another set by it than a stage before"
                    raise ConfigError(f"evaluation.sets.{name}", own.source, problem, "give one of them another name")
                questions[name] = stage.inputs.evaluation_sets[name]
        return settings, questions


def _check_same(name: str, first: RunConfig, cfg: RunConfig) -> None:
    """Refuses a stage that changes what the workers were started with."""
    shared, own = flat_settings(asdict(first)), flat_settings(asdict(cfg))
    for key in [*shared, *(key for key in own if key not in shared)]:
        if shared.get(key) != own.get(key) and not key.startswith(OWN):
            problem = f"stage {name} has {own.get(key)} there, and the first stage {shared.get(key)}"
            raise ConfigError(
                key, own.get(key), problem, "give all stages the same, or train them in runs of their own"
            )
