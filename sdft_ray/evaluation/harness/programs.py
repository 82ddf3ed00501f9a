"""Runs a program that a model wrote, in a process of its own, which is no sandbox: it may do what its user may."""

import subprocess
import sys
import tempfile

TIMEOUT_S = 10.0
MAX_MEMORY_BYTES = 2 * 2**30

# Keeps an accident small, not malice out.
_LIMITS = f"""
import resource
for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
    resource.setrlimit(limit, ({MAX_MEMORY_BYTES}, {MAX_MEMORY_BYTES}))
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
"""
PASSED = 77  # exit code: a program that ends itself before its last line has not passed""


def passes(program: str) -> bool:
    """Whether the program is run to its last line, in time and without an error."""
    code = f"{_LIMITS}exec(compile({program!r}, 'program', 'exec'), {{}})\nraise SystemExit({PASSED})"
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", code],
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == PASSED
