"""The settings of a run as a whole."""

from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import PurePath
from typing import Any

from omegaconf import MISSING

from sdft_ray.config.adapter import ExportConfig
from sdft_ray.config.cluster import ClusterConfig
from sdft_ray.config.data import DataConfig, ModelConfig
from sdft_ray.config.evaluation import EvaluationConfig
from sdft_ray.config.faults import FaultsConfig
from sdft_ray.config.harness import HarnessConfig
from sdft_ray.config.learner import LearnerConfig
from sdft_ray.config.method import CompletionSource, LossConfig, MethodConfig, MismatchCorrection, Target
from sdft_ray.config.report import ReportConfig
from sdft_ray.config.rollout import RolloutConfig
from sdft_ray.config.show import ShowConfig
from sdft_ray.config.stages import StageBoundaryConfig
from sdft_ray.config.target import TargetConfig
from sdft_ray.config.teacher import TeacherConfig, TeacherContext, TeacherWeights
from sdft_ray.config.teacher_check import CheckConfig
from sdft_ray.config.tracking import TrackingConfig
from sdft_ray.config.validation import at_least, require
from sdft_ray.config.weights import WeightsConfig

AUTO, NEVER = "auto", "never"  # what resume may be, besides the path of a checkpoint


class Mode(Enum):
    """What the command does."""

    train = auto()  # teach the model; the default
    evaluate = auto()  # measure model.path as it is: evaluation.sets, evaluation.prior and harness.tasks
    plan = auto()  # print what the run would take, and start nothing
    show = auto()  # print what the model will read of some rows, and start nothing
    check_teacher = auto()  # tell whether the model can use the demonstrations, before anything is trained
    preflight = auto()  # look at nodes, storage, memory; start the workers and compare them; train nothing
    report = auto()  # make a page of the run folders in `runs`; needs no cluster
    render = auto()  # print what target.kind is handed, such as a RayJob for Kubernetes, and start nothing
    check = auto()  # hold that against the schemas and rules of the target, and start nothing
    submit = auto()  # hand it to target.kind and follow its log; attaches where it was handed over already
    status = auto()  # tell how the job of this name stands there
    logs = auto()  # follow the log of the job of this name, and end as it ends
    stop = auto()  # end the job of this name; its run folder stays
    top = auto()  # show a run while it goes on: `name` in runs_dir, else the newest that is alive; needs no cluster
    stacks = auto()  # print where every process of such a run is in its code, on all its nodes


class Best(Enum):
    """Which value of `keep_best` is the best."""

    HIGHEST = auto()
    LOWEST = auto()


@dataclass(kw_only=True)
class PlanConfig:
    """What mode=plan reckons with."""

    model: Any = ""  # of a model whose files are not here: a name such as "qwen2.5-7b", a config.json, or its keys


@dataclass(kw_only=True)
class RunConfig:
    """Everything a run is made of."""

    mode: Mode = Mode.train
    name: str = ""  # the run folder is runs_dir/name; "" makes a name of method and time
    runs_dir: str = "runs"
    note: str = ""  # printed at the start: what an experiment's author wants its users to know
    seed: int = 0  # of the data order and of every completion
    seeds: list[int] = field(default_factory=list)  # a run each, in runs_dir/NAME-seed-S; [] is one run with `seed`
    batch_size: int = 16  # prompts of one optimizer step, one completion each
    num_steps: int = 0  # optimizer steps; 0 derives them from num_epochs
    num_epochs: int = 2  # used where num_steps is 0; the last, partial batch of an epoch is dropped
    stages: list[str] = field(default_factory=list)  # conf/data names with settings behind them; [] for `data` alone
    stage_boundary: StageBoundaryConfig = field(default_factory=StageBoundaryConfig)
    max_staleness: int = 0  # steps the completions may lag behind the weights; 0 is exactly on-policy
    deterministic: bool = False  # on CPUs two runs, or a resumed one, agree bit for bit; scores more slowly
    checkpoint_every: int = 50  # steps, and after the last of a run; 0 keeps only the final model, and cannot resume
    keep_checkpoints: int = 2  # of one run; older ones are deleted as newer ones are complete
    keep_best: str = ""  # a metric, such as evaluation/taught_accuracy: the checkpoint with its best value is kept, too
    best: Best = Best.HIGHEST  # which value of that metric is the best
    resume: str = NEVER  # never, auto (the newest sound checkpoint of this run folder), or the path of a checkpoint
    preflight: bool = True  # look at nodes, storage and memory before a run starts its workers
    cluster: ClusterConfig = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    harness: HarnessConfig = field(default_factory=HarnessConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    show: ShowConfig = field(default_factory=ShowConfig)
    runs: list[str] = field(default_factory=list)  # of mode=report: run folders, or patterns such as runs/sdft-*
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        self._check_folder()
        require(
            isinstance(self.cluster, ClusterConfig),
            "cluster",
            self.cluster,
            "names no machines",
            "set it to a ClusterConfig, or compose one with +cluster=NAME",
        )
        at_least(1, "batch_size", self.batch_size)
        at_least(0, "num_steps", self.num_steps)
        at_least(0, "max_staleness", self.max_staleness)
        at_least(0, "checkpoint_every", self.checkpoint_every)
        at_least(1, "keep_checkpoints", self.keep_checkpoints)
        self.model.dtype = self.model.dtype.settled(on_gpu=self.cluster.num_gpus > 0)
        self.learner.precision = self.learner.precision.settled(on_gpu=self.cluster.learner.device == "cuda")
        self.learner.saving = self.learner.saving.settled(on_gpu=self.cluster.learner.device == "cuda")
        self.learner.check_masters()
        self.weights.check_fit(self.cluster, self.teacher, self.model)
        self.export.check_fit(self.model.adapter)
        if self.method.target is Target.TEACHER:
            self.teacher.check_fit(self.cluster)
        self._check_turns()
        require(
            self.num_steps > 0 or self.num_epochs > 0,
            "num_epochs",
            self.num_epochs,
            "with num_steps=0 nothing would be trained",
            "set num_steps or num_epochs above 0",
        )
        require(
            self.batch_size >= self.cluster.learner.num_workers,
            "batch_size",
            self.batch_size,
            f"leaves some of the {self.cluster.learner.num_workers} learner workers without a sample",
            f"set batch_size={self.cluster.learner.num_workers} or more",
        )
        self._settle_deterministic()
        self._check_seeds()
        self._check_method()
        self.data.rehearsal.check_fit(self.batch_size, self.method, self.teacher)
        if self.stages and self.method.has_teacher:
            self.stage_boundary.check_fit(self.teacher, self.weights)

    def _check_turns(self) -> None:
        """Refuses what roles that share one device by turns cannot do."""
        require(
            not self.cluster.turns or self.max_staleness == 0,
            "max_staleness",
            self.max_staleness,
            "samples while the learner is at work, but with cluster.turns=true one of both sleeps",
            "set max_staleness=0, or cluster.turns=false",
        )
        self.learner.check_turns(self.cluster)

    def _check_folder(self) -> None:
        require(bool(self.runs_dir.strip()), "runs_dir", self.runs_dir, "names no folder", "set runs_dir=runs")
        inside = PurePath(self.name)
        require(
            not self.name or (bool(inside.parts) and not inside.is_absolute() and ".." not in inside.parts),
            "name",
            self.name,
            f"leaves runs_dir={self.runs_dir}",
            "set runs_dir to the folder that holds the run, and name to a name in it",
        )

    @property
    def answer_mark(self) -> str:
        """The text behind which an evaluation reads answers; "" where it reads all of a completion."""
        own = self.evaluation.skip_until
        return self.loss.skip_until if own is None else own

    def needed_roles(self) -> list[str]:
        """The roles that the method and the evaluation need workers for."""
        evaluation = self.evaluation
        is_asked = evaluation.sets or evaluation.prior or evaluation.general or self.harness.tasks
        needed = {
            "rollout": self.method.samples or is_asked or self.data.rehearsal.is_on,
            "teacher": self.method.target is Target.TEACHER,
            "learner": True,
        }
        return [role for role, is_needed in needed.items() if is_needed]

    def _settle_deterministic(self) -> None:
        """Fixes what is computed together, and refuses what cannot be fixed."""
        self.teacher.one_by_one |= self.deterministic
        self.rollout.async_scheduling &= not self.deterministic
        require(
            not self.deterministic or not self.max_staleness,
            "deterministic",
            self.deterministic,
            f"cannot hold with max_staleness={self.max_staleness}: which weights write a token is a matter of time",
            "set max_staleness=0, or deterministic=false",
        )
        self.cluster.check_deterministic(self.deterministic)

    def _check_seeds(self) -> None:
        """Refuses seeds that cannot each have a run of their own."""
        require(
            len(set(self.seeds)) == len(self.seeds),
            "seeds",
            self.seeds,
            "names a seed twice, and both runs would have the same folder",
            "name every seed once",
        )
        require(
            not self.seeds or self.mode in (Mode.train, Mode.plan),  # of which a plan is the same for all of them
            "seeds",
            self.seeds,
            f"repeats training, but mode={self.mode.name} trains nothing",
            "set seed instead, and leave seeds out",
        )
        require(
            not self.seeds or self.resume in (AUTO, NEVER),
            "resume",
            self.resume,
            f"is the checkpoint of one run, but seeds={self.seeds} are several",
            "set resume=auto, with which every seed goes on from its own, or seed instead of seeds",
        )

    def _check_method(self) -> None:
        """Refuses choices of a method that do not go together."""
        completion, target, teacher = self.method.completion, self.method.target, self.teacher
        require(
            completion is CompletionSource.STUDENT or self.loss.mismatch is MismatchCorrection.NONE,
            "loss.mismatch",
            self.loss.mismatch.name,
            f"weighs by the student's own sampler, but with method.completion={completion.name} the student samples "
            "nothing",
            "set loss.mismatch=NONE",
        )
        require(
            completion is not CompletionSource.TEXT or not self.loss.skip_until,
            "loss.skip_until",
            self.loss.skip_until,
            "ends the reasoning of a completion, but with method.completion=TEXT raw texts are learned",
            "leave it empty",
        )
        require(
            target is Target.TEACHER or self.loss.mismatch is MismatchCorrection.NONE,
            "loss.mismatch",
            self.loss.mismatch.name,
            f"weighs a divergence, but method.target={target.name} has none",
            "set loss.mismatch=NONE",
        )
        require(
            completion is not CompletionSource.TEXT or target is not Target.TEACHER,
            "method.target",
            target.name,
            "has a teacher read the prompt, but method.completion=TEXT has no prompt",
            "set method.target=TOKEN or TOKEN_DFT",
        )
        frozen_self = teacher.weights is TeacherWeights.FROZEN and not teacher.path
        require(
            not (self.method.has_teacher and frozen_self and teacher.context is TeacherContext.NONE),
            "teacher.path",
            teacher.path,
            "a FROZEN teacher that is shown nothing is the student as it begins, so there is nothing to learn",
            "name another model, such as the base model of model.path, or change teacher.context or teacher.weights",
        )
        if completion is CompletionSource.TEACHER:
            require(
                teacher.weights is TeacherWeights.FROZEN and not teacher.path,
                "teacher.weights",
                teacher.weights.name,
                "cannot have sampled before training: with method.completion=TEACHER the teacher is the model as the "
                "run finds it",
                "set teacher.weights=FROZEN and leave teacher.path empty",
            )
