"""What a run tells its checkpoints, and what it asks of the one that it resumes."""

from collections.abc import Callable, Mapping
from typing import Any

from sdft_ray.cluster.run_folder import RunFolder
from sdft_ray.cluster.stages import Stages
from sdft_ray.config import RunConfig
from sdft_ray.config.saved import changed_settings, flat_settings
from sdft_ray.errors import ConfigError
from sdft_ray.learner.checkpoint import check_adapter_facts, check_state, layout, read_state
from sdft_ray.learner.saving import BestCheckpoint, SavingPlan
from sdft_ray.models.adapter import adapter_facts
from sdft_ray.models.identity import model_identity
from sdft_ray.tracking.metrics import find_metric
from sdft_ray.tracking.summary import git_commit, package_versions

EVALUATED = ("evaluation/", "retention/")  # metrics that only an evaluation measures


def make_saving_plan(stages: Stages, folder: RunFolder, say: Callable[[str], None]) -> SavingPlan:
    """How the checkpoints of a run are saved.

    Raises:
        ConfigError: keep_best names no metric, or one that no checkpoint would have.
    """
    cfg, inputs = stages.shared
    _check_best(cfg)
    return SavingPlan(
        root=folder.checkpoints,
        keep=cfg.keep_checkpoints,
        best=BestCheckpoint(cfg.keep_best, cfg.best),
        saving=cfg.learner.saving,
        saves=cfg.checkpoint_every > 0,
        max_failed_saves=cfg.faults.max_failed_saves,
        num_damaged=len(folder.damages),
        facts={
            "model": model_identity(inputs.model_path, inputs.tokenizer),
            "adapter": adapter_facts(cfg.model.adapter),
            "code": code_versions(),
            "passed_over": list(folder.damages),
        },
        say=say,
        check_held=folder.check_held,
    )


def code_versions() -> dict[str, str]:
    """Versions of this package and of those that decide a run's numbers."""
    return {"commit": git_commit(), **package_versions()}


def go_on_from(folder: RunFolder, stages: Stages, saving: SavingPlan) -> None:
    """Has the examples go on where the resumed checkpoint stopped, and refuses it where the run cannot go on.

    Raises:
        CheckpointError: it is of another model or other data, or lies beyond the end of the run.
    """
    if folder.resumed is None:
        return
    state = read_state(folder.resumed)
    check_state(folder.resumed, state, num_steps=stages.num_steps, model=saving.facts["model"])
    check_adapter_facts(folder.resumed, state, saving.facts["adapter"])
    stages.at(state["weight_version"]).inputs.examples.load_state(state["data"])


def what_differs(folder: RunFolder, cfg: RunConfig, settings: Mapping[str, Any]) -> list[str]:
    """What is other than when the resumed checkpoint was saved: allowed, but worth knowing.

    Raises:
        CheckpointError: config.yaml of the resumed run is damaged.
    """
    if folder.resumed is None:
        return []
    state, now = read_state(folder.resumed), flat_settings(settings)
    before = changed_settings(folder.resumed.parents[1], settings)
    differences = [f"{key}={now.get(key)} (was {value})" for key, value in before.items()]
    mine = layout(cfg.learner, cfg.cluster.learner.num_workers)
    if state["layout"] != mine:
        differences.append(f"weights, moments and average cut for {mine} (saved with {state['layout']})")
    saved, code = state.get("code", {}), code_versions()
    differences += [
        f"{name} {code.get(name) or 'none'} (was {saved.get(name) or 'none'})"
        for name in {**saved, **code}
        if saved.get(name) != code.get(name)
    ]
    return differences


def _check_best(cfg: RunConfig) -> None:
    if not cfg.keep_best:
        return
    try:
        find_metric(cfg.keep_best)
    except KeyError as error:
        remedy = "name one of sdft_ray/tracking/metrics.py, such as evaluation/taught_accuracy or learner/loss"
        raise ConfigError("keep_best", cfg.keep_best, "is no metric", remedy) from error
    every = cfg.evaluation.every
    if cfg.keep_best.startswith(EVALUATED) and (not every or cfg.checkpoint_every % every):
        problem = f"is not measured at every checkpoint (checkpoint_every={cfg.checkpoint_every})"
        raise ConfigError("evaluation.every", every, f"{cfg.keep_best} {problem}", "set it to checkpoint_every")
    if cfg.keep_best.startswith("harness/"):
        problem = "is measured before and after training only"
        raise ConfigError("keep_best", cfg.keep_best, problem, "name a metric of evaluations or steps")
