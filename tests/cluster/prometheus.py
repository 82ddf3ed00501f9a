"""A real Prometheus, of Debian's package, that scrapes the tests' Ray and knows the rules of launch/monitoring."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import yaml

from tests.cluster.command import ROOT, free_ports

PROGRAM = shutil.which("prometheus")
RULES = ROOT / "launch" / "monitoring" / "alerts.yaml"
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Prometheus:
    """Answers queries."""

    def __init__(self, address: str):
        self._address = address

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        answer = json.load(OPENER.open(url, timeout=30))
        assert answer["status"] == "success", answer
        return answer["data"]

    def labels(self, expression: str) -> list[dict[str, str]]:
        """The labels of every series that a query finds."""
        return [found["metric"] for found in self.ask("query", query=expression)["result"]]

    def wait_until_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                OPENER.open(f"{self._address}/-/ready", timeout=5)
                return
            except OSError:  # not yet
                time.sleep(0.1)
        raise AssertionError(f"prometheus does not answer: {log.read_text()}")


@contextmanager
def running_prometheus(folder: Path) -> Iterator[Prometheus]:
    """Inside the block Prometheus scrapes every node of the Ray that this process has joined, once a second."""
    assert PROGRAM is not None
    targets = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes() if node["Alive"]]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    command = [PROGRAM, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=output, stderr=output)
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        prometheus.wait_until_ready(process, log)
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)
