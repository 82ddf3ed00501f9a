"""What `sdft --help` prints: modes, the choices there are, and the settings people change, each with its default.

Everything is read from where it is declared, the choices from the first comment of their files in conf/.
"""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sdft_ray.config import Mode
from sdft_ray.config.reference import meanings_of, sections
from sdft_ray.launch.overrides import CONF

USAGE = """\
usage: sdft +cluster=NAME [KEY=VALUE ...]        the same as python -m sdft_ray.launch

Teaches a language model something new from demonstrations and forgets little. For instance:
  sdft +cluster=local +recipe=facts data=jsonl data.source=my_train.jsonl name=mine
"""
GROUPS = {"cluster": "+cluster=", "recipe": "+recipe=", "method": "method=", "data": "data=", "model": "model="}
OFTEN_CHANGED = (
    "model.path",
    "data.source",
    "name",
    "runs_dir",
    "resume",
    "num_steps",
    "num_epochs",
    "batch_size",
    "learner.learning_rate",
    "learner.precision",
    "learner.zero_stage",
    "learner.max_tokens_per_microbatch",
    "learner.gradient_checkpointing",
    "loss.divergence",
    "teacher.template",
    "teacher.ema_decay",
    "rollout.max_new_tokens",
    "max_staleness",
    "evaluation.every",
    "checkpoint_every",
    "tracking.wandb",
)
OTHERS = """\
All settings: docs/settings.md. Hydra's own options, such as --multirun and --cfg job: sdft --hydra-help.
Shell completion: eval "$(sdft --shell-completion install=bash)"
"""


def show_help(console: Console) -> None:
    """Prints the help to a terminal."""
    console.print(USAGE, soft_wrap=True)
    meanings = meanings_of(Mode)
    _show(console, "mode=", ((meanings[mode.name], mode.name) for mode in Mode))
    for group, prefix in GROUPS.items():
        _show(console, prefix, ((_purpose(path), path.stem) for path in sorted((CONF / group).glob("*.yaml"))))
    declared = {setting.key: setting for section in sections() for setting in section.settings}
    chosen = (declared[key] for key in OFTEN_CHANGED)
    _show(console, "", ((setting.meaning, f"{setting.key}={setting.default}") for setting in chosen), "settings")
    console.print(OTHERS, soft_wrap=True)


def _purpose(path: Path) -> str:
    """The first sentence of the comment at the head of a file of settings."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line)
    sentence, period, _ = comment.partition(". ")
    return sentence + (period and ".")


def _show(console: Console, prefix: str, rows: Iterator[tuple[str, str]], title: str = "") -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2), title=title or None, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column()
    for meaning, name in rows:
        table.add_row(prefix + name, meaning)
    console.print(table)
    console.print()
