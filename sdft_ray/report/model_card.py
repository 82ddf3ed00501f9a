"""README.md of an exported model: the model card that model hubs and people read first."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdft_ray.config import RunConfig, Target
from sdft_ray.models.embedded import EMBEDDED_MODEL

CARD_FILE = "README.md"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what the embedded model is called there


def write_model_card(
    folder: Path, stages: Sequence[tuple[str, RunConfig]], num_steps: int, summary: Mapping[str, Any]
) -> None:
    """Writes the card of a finished run.

    Args:
        folder: the exported model.
        stages: name and settings of every stage; a run without stages has one, of name "".
        num_steps: optimizer steps of all stages.
        summary: as `tracking.summary` builds it.
    """
    cfg = stages[0][1]
    settings = [f"| {name} | {value} |" for name, value in _settings(cfg, num_steps).items()]
    data = [
        f"- {f'{name}: ' if name else ''}`{of_stage.data.origin}`{_rehearsed(of_stage)}" for name, of_stage in stages
    ]
    results = [
        f"| {name.replace('_', ' ')} | {_shown(values['before'])} | {_shown(values['after'])} |"
        for name, values in summary["evaluation"].items()
    ]
    lines = [
        *_front_matter(cfg),
        f"# {cfg.method.name} of {Path(cfg.model.path).name}",
        "",
        f"{_what(cfg)} training with sdft_ray{_commit(summary)}: number of steps {num_steps},"
        f" method {cfg.method.name}. Its licence is that of the model it was made from.",
        "",
        "## Data",
        "",
        *data,
        "",
        "## Settings",
        "",
        "| setting | value |",
        "|---|---|",
        *settings,
        "",
    ]
    if results:
        lines += ["## Results", "", "| evaluation | before | after |", "|---|---|---|", *results, ""]
    (folder / CARD_FILE).write_text("\n".join(lines), encoding="utf-8")


def _what(cfg: RunConfig) -> str:
    path = cfg.model.path
    return f"This adapter for `{path}` comes from" if cfg.model.adapter.is_on else f"This model is `{path}` after"


def _rehearsed(cfg: RunConfig) -> str:
    """What every batch held besides the examples."""
    rehearsal = cfg.data.rehearsal
    if not rehearsal.is_on:
        return ""
    rows = rehearsal.rows_of(cfg.batch_size)
    return f", and rehearsal: {rows} of the {cfg.batch_size} rows of a batch are prompts of `{rehearsal.prompts}`"


def _front_matter(cfg: RunConfig) -> list[str]:
    """YAML that model hubs read; strings are quoted as JSON, which YAML takes. A local folder has no name on a hub."""
    path = EMBEDDED_HUB_ID if cfg.model.path == EMBEDDED_MODEL else cfg.model.path
    on_hub = HUB_ID.fullmatch(path) and not Path(cfg.model.path).is_dir()
    return [
        "---",
        *([f"base_model: {json.dumps(path)}"] if on_hub else []),
        f"library_name: {'peft' if cfg.model.adapter.is_on else 'transformers'}",
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in ("sdft_ray", cfg.method.name)),
        "---",
        "",
    ]


def _settings(cfg: RunConfig, num_steps: int) -> dict[str, Any]:
    """What decides the result; those of the first stage, where stages differ."""
    learner = cfg.learner
    settings = {
        "num_steps": num_steps,
        "batch_size": cfg.batch_size,
        "learner.learning_rate": f"{learner.learning_rate:g}",
        "learner.schedule": f"{learner.schedule.name}, warm-up of {learner.warmup_steps} steps",
        "learner.precision": learner.precision.name,
        **_adapter(cfg),
        "method.completion": cfg.method.completion.name,
        "method.target": cfg.method.target.name,
        "seed": cfg.seed,
    }
    if cfg.method.target is Target.TEACHER:
        settings |= {
            "loss.divergence": cfg.loss.divergence.name,
            "teacher.weights": cfg.teacher.weights.name,
            "teacher.ema_decay": cfg.teacher.ema_decay,
            "teacher.context": cfg.teacher.context.name,
        }
    if cfg.method.samples:
        settings |= {
            "rollout.temperature": cfg.rollout.temperature,
            "rollout.max_new_tokens": cfg.rollout.max_new_tokens,
            "max_staleness": cfg.max_staleness,
        }
    return settings


def _adapter(cfg: RunConfig) -> dict[str, Any]:
    adapter = cfg.model.adapter
    if not adapter.is_on:
        return {}
    shown = {"kind": adapter.kind.name, "rank": adapter.rank, "alpha": f"{adapter.alpha:g}"}
    shown["targets"] = ", ".join(adapter.targets) or "every linear layer of the decoder's layers"
    return {f"model.adapter.{key}": value for key, value in shown.items()}


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _commit(summary: Mapping[str, Any]) -> str:
    return f" (commit {summary['git_commit']})" if summary.get("git_commit") else ""
