"""Renders the examples of launch/slurm/ anew: python -m tests.targets.slurm.examples"""

from pathlib import Path

from sdft_ray.targets.slurm.script import batch_script
from tests.test_conf import compose_with

FOLDER = Path(__file__).parents[3] / "launch" / "slurm"
COMMON = ("mode=render", "target=slurm", "runs_dir=/shared/runs", "data=jsonl", "data.source=/shared/rows.jsonl")
EXAMPLES = {
    "8xA100": (
        "+cluster=8xA100",
        "name=one-node",
        "model=qwen2.5-3b",
        "target.python=/shared/venv/bin/python",
        "target.slurm.time_limit=12:00:00",
    ),
    "two-nodes-apptainer": (
        "+cluster=2x8xH100",
        "name=two-nodes",
        "model=qwen2.5-7b",
        "target.slurm.partition=gpu",
        "target.slurm.account=research",
        "target.slurm.apptainer=/shared/sdft_ray.sif",
        "'target.slurm.options=[--exclusive]'",
    ),
}


def text(name: str) -> str:
    """The file of an example, with the command that renders it behind its first line."""
    overrides = (*EXAMPLES[name], *COMMON)
    cfg = compose_with(*(override.strip("'") for override in overrides))
    first, rest = batch_script(cfg, cfg.name).split("\n", 1)
    return f"{first}\n# {' '.join(['python -m sdft_ray.launch', *overrides])}\n{rest}"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in EXAMPLES:
        (FOLDER / f"{name}.sh").write_text(text(name))


if __name__ == "__main__":
    main()
