"""The light parts compute on a CPU what they compute on a GPU, with torch and transformers alone."""

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.processes import ROOT
from tests.gpu_check.parts import PARTS

# A package whose entry is None cannot be imported, and is not found either.
WITHOUT = """
import importlib, json, sys
for name in ("deepspeed", "ray", "vllm"):
    sys.modules[name] = None
from pathlib import Path
from tests.gpu_check.one import measure
from tests.gpu_check.parts import PARTS, Place
figures = {}
for name, part in PARTS.items():
    if part.is_light and part.tests:
        importlib.import_module(f"tests.gpu.{Path(part.tests).stem}")
    elif part.is_light:
        figures[name] = measure(name, Place("cpu", Path(sys.argv[1])))
Path(sys.argv[1], "figures").write_text(json.dumps(figures))
"""


def test_light_parts_need_neither_ray_nor_vllm_nor_deepspeed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures").read_text())
    measured = {name for name, part in PARTS.items() if part.is_light and not part.tests}
    assert figures.keys() == measured >= {"divergence", "learner", "teacher", "publication", "averages", "adapter"}
    assert all(rows for each in figures.values() for rows in each["tables"].values())
