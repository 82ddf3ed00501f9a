"""What the command imports before it knows that there is something to start: a wrong setting would wait for it."""

import json
import subprocess
import sys

from tests.cluster.command import ROOT

HEAVY = ["torch", "transformers", "vllm", "deepspeed", "ray", "datasets", "openai", "wandb"]
PLAN = ["+cluster=local", "mode=plan"]
HELP = ["--help"]
REFUSED = [
    ["method=sft"],  # no cluster
    [*PLAN, "learner.lr=1"],
    [*PLAN, "batch_size=0"],
    ["+cluster=local", "stages=['nothing']"],
    ["+cluster=local", "mode=evaluate", "seeds=[1]"],
    ["+cluster=local", "mode=show", "show.num_rows=0"],
    ["mode=top", "name=nowhere"],
    ["mode=stacks", "name=nowhere"],
    ["mode=report", "runs=[nowhere]"],
]

COMMANDS = """
import json, sys
from sdft_ray.launch import main
for settings in json.loads(sys.argv[1]):
    sys.argv = ["sdft", *settings]
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    print("\\n" + json.dumps([code, sorted(sys.modules)]))
"""


def run(*commands: list[str]) -> list[tuple[int, set[str]]]:
    """The exit code of every command, one after the other in a process of their own, and the modules it has by then."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return [(code, set(modules)) for code, modules in lines]


def test_neither_the_help_nor_a_refusal_of_settings_imports_what_takes_seconds() -> None:
    (helped, _), *refused = run(HELP, *REFUSED)
    assert (helped, [code for code, _ in refused]) == (0, [1] * len(REFUSED))
    imported = refused[-1][1]
    assert "sdft_ray.launch" in imported
    assert not imported & set(HEAVY)


def test_a_plan_imports_no_role_and_no_vendor_but_the_one_whose_networks_it_counts() -> None:
    ((code, imported),) = run([*PLAN, "data=jsonl", "data.source=nowhere.jsonl"])
    assert code == 1
    assert "sdft_ray.planning.plan" in imported
    assert not imported & {*HEAVY, "sdft_ray.cluster.topology"} - {"torch", "transformers"}


def test_rows_are_shown_without_ray_and_without_any_role() -> None:
    ((code, imported),) = run(["+cluster=local", "mode=show", "data=jsonl", "data.source=nowhere.jsonl"])
    assert code == 1
    assert "sdft_ray.cluster.preview" in imported
    assert not imported & {*HEAVY, "sdft_ray.cluster.topology"} - {"torch", "transformers"}
