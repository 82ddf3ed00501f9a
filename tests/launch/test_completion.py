"""Shell completion as bash asks for it: the script that is installed calls the command with what has been typed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
eval "$(sdft --shell-completion install=bash)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
hydra_bash_completion
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(typed: str, folder: Path) -> list[str]:
    command = folder / "sdft"  # as pip makes it
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom sdft_ray.launch import main\nsys.exit(main())\n")
    command.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", SCRIPT, "bash", typed], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("sdft +cluster=loc", ["+cluster=local"]),
        ("sdft +cluster=local +recipe=", ["+recipe=facts", "+recipe=skills"]),
        ("sdft learner.z", ["learner.zero_stage="]),
    ],
)
def test_presets_and_settings_are_completed(typed: str, expected: list[str], tmp_path: Path) -> None:
    assert complete(typed, tmp_path) == expected
