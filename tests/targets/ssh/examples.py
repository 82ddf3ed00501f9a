"""Renders the examples of launch/ssh/ anew: python -m tests.targets.ssh.examples"""

from pathlib import Path

from sdft_ray.targets.ssh.script import host_script
from tests.test_conf import compose_with

FOLDER = Path(__file__).parents[3] / "launch" / "ssh"
EXAMPLES = {
    "two-hosts": (
        "+cluster=2x8xH100",
        "name=two-hosts",
        "model=qwen2.5-7b",
        "target.python=/shared/venv/bin/python",
        "target.ssh.hosts=launch/ssh/hosts",
        "mode=render",
        "target=ssh",
        "runs_dir=/shared/runs",
        "data=jsonl",
        "data.source=/shared/rows.jsonl",
    ),
}


def text(name: str) -> str:
    """The file of an example, with the command that renders it behind its first line."""
    own = f"target.ssh.hosts={FOLDER}/hosts"
    cfg = compose_with(*(own if word.startswith("target.ssh.hosts=") else word for word in EXAMPLES[name]))
    first, rest = host_script(cfg, cfg.name).split("\n", 1)
    return f"{first}\n# {' '.join(['python -m sdft_ray.launch', *EXAMPLES[name]])}\n{rest}"


def main() -> None:
    for name in EXAMPLES:
        (FOLDER / f"{name}.sh").write_text(text(name))


if __name__ == "__main__":
    main()
