"""Renders the examples of launch/kuberay/ anew: python -m tests.targets.kuberay.examples"""

from pathlib import Path

from sdft_ray.targets.kuberay.objects import render, written
from tests.test_conf import compose_with

FOLDER = Path(__file__).parents[3] / "launch" / "kuberay"
COMMON = (
    "mode=render",
    "target=kuberay",
    "target.image=registry.example/sdft_ray:gpu",
    "target.ray_version=2.60.0",
    "target.storage.claim=training",
    "+target.secrets.HF_TOKEN=hub/token",
    "data=jsonl",
    "data.source=/storage/rows.jsonl",
)
EXAMPLES = {
    "one-gpu": ("+cluster=1xH100", "name=one-gpu", "model=custom", "model.path=Qwen/Qwen2.5-0.5B-Instruct"),
    "8xA100": ("+cluster=8xA100", "name=eight-gpus", "model=qwen2.5-3b"),
    "autoscaling": (
        "+cluster=8xA100",
        "cluster.rollout.num_workers=1",
        "cluster.rollout.max_workers=4",
        "name=autoscaling",
        "model=qwen2.5-3b",
    ),
    "kueue": (
        "+cluster=2x8xH100",
        "name=two-nodes",
        "model=qwen2.5-7b",
        "target.queue=KUEUE",
        "target.queue_name=training",
        "target.monitoring_namespace=monitoring",
    ),
}


def text(name: str) -> str:
    """The file of an example, under the command that renders it."""
    overrides = (*EXAMPLES[name], *COMMON)
    command = " ".join(["python -m sdft_ray.launch", *overrides])
    return f"# {command}\n" + written(render([[("", compose_with(*overrides))]]))


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in EXAMPLES:
        (FOLDER / f"{name}.yaml").write_text(text(name))


if __name__ == "__main__":
    main()
