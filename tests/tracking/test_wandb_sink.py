import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

INIT_TIMEOUT_S = 3.0  # of thirty, for which a start would wait

LOG_ONE_STEP = f"""
import sys
from pathlib import Path
from sdft_ray.config import TrackingConfig, Wandb
from sdft_ray.errors import ConfigError
from sdft_ray.records import SampleReport
from sdft_ray.tracking.wandb_sink import SETTINGS, Labels, WandbSink
from tests.fakes import make_views
SETTINGS["init_timeout"] = {INIT_TIMEOUT_S}
mode, run_dir, resumed = sys.argv[1:]
try:
    labels = Labels(name="a run-seed-1", group="a run", tags=("sdft", "seed-1", "tools"), stage_of=lambda step: "tools")
    sink = WandbSink(TrackingConfig(wandb=Wandb[mode], wandb_artifact=True), labels=labels, run_dir=Path(run_dir),
                     settings={{"seed": 1}}, decode=str, resumed=resumed == "resumed", say=print)
except ConfigError as error:
    sys.exit(str(error))
sink.log_evaluation(0, 0.0, {{"evaluation/taught_accuracy": 0.0}})
for scored in (True, False):
    views = make_views([0.5, 2.0], scored)
    sample = SampleReport(example_id="a", epoch=0, weight_version=0, prompt_tokens=(1,), completion_tokens=(5, 6),
                          num_counted=1, views=views, copied_share=0.0, truncated=False)
    sink.log_step(1, 1.0, {{"learner/loss": 0.5}}, (sample,))
model = Path(run_dir) / "model"
model.mkdir(exist_ok=True)
(model / "config.json").write_text("{{}}")
sink.log_model(model)
sink.close()
"""


def run_wandb(mode: str, run_dir: Path, resumed: str = "new", **account: str) -> subprocess.CompletedProcess[str]:
    """Logs one step in a process that has no account and whose every connection is refused."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    nobody = str(run_dir / "nobody")
    nowhere = "http://127.0.0.1:9"
    environment |= {"HOME": nobody, "NETRC": f"{nobody}/netrc", "PYTHONPATH": str(ROOT)}
    environment |= {"HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere, "NO_PROXY": "127.0.0.1"}
    environment |= account
    arguments = [sys.executable, "-c", LOG_ONE_STEP, mode, str(run_dir), resumed]
    return subprocess.run(
        arguments, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )


def run_ids(run_dir: Path) -> set[str]:
    return {path.name.rpartition("-")[2] for path in (run_dir / "wandb").glob("offline-run-*")}


def test_offline_writes_a_run_without_account_or_network_and_a_resumed_run_goes_on_with_it(
    tmp_path: Path,
) -> None:
    for resumed in ("new", "resumed"):
        process = run_wandb("offline", tmp_path, resumed)
        assert process.returncode == 0, process.stderr
        assert (process.stdout + process.stderr).strip() == ""
    (run_id,) = run_ids(tmp_path)
    for log in (tmp_path / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"):
        assert b"learner/loss" in log.read_bytes()
        for label in (b"a run-seed-1", b"a run", b"sdft", b"seed-1", b"tools", b"train", b"a-run-seed-1-model"):
            assert label in log.read_bytes()
    tables = list((tmp_path / "wandb").glob("offline-run-*/files/media/table/samples/*.table.json"))
    assert len(tables) == 2, "one table a run for the samples of both steps"
    table = json.loads(tables[0].read_text())
    assert table["columns"][:5] == ["step", "example_id", "position", "token", "divergence"]
    assert [row[2] for row in table["data"]] == [1, 0, 1, 0]


def test_online_without_an_account_says_what_to_do(tmp_path: Path) -> None:
    process = run_wandb("online", tmp_path)
    assert process.returncode == 1
    assert process.stderr.startswith("tracking.wandb=online: ")
    assert "wandb login" in process.stderr
    assert "tracking.wandb=offline" in process.stderr


@pytest.mark.parametrize("hangs", [False, True], ids=["nobody answers", "one that hangs"])
def test_a_server_that_is_not_reached_is_said_once_and_the_run_goes_on(tmp_path: Path, hangs: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if hangs:
            server.listen(50)  # takes connections, and never answers
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = run_wandb("online", tmp_path, WANDB_BASE_URL=address, WANDB_API_KEY="a" * 40)
    assert process.returncode == 0, process.stderr
    (line,) = process.stdout.splitlines()
    assert line.startswith("wandb          is not reached (") and "'wandb sync' sends what lies in" in line
    (run_id,) = run_ids(tmp_path)
    (log,) = (tmp_path / "wandb").glob(f"offline-run-*/run-{run_id}.wandb")
    assert b"learner/loss" in log.read_bytes()
