"""Hosts without a network: `ssh` as a program on the PATH that runs its command here, unless a host is away."""

import os
import sys
from functools import cache
from pathlib import Path

import psutil

from sdft_ray.config import RunConfig
from sdft_ray.targets.ssh.job import SshJob
from tests.test_conf import compose_with

SSH = """#!/bin/bash
echo "$*" >> {folder}/calls
while [[ $1 != -- ]]; do shift; done
if [[ -e {folder}/away-${{2#*@}} ]]; then cat {folder}/away-${{2#*@}} >&2; exit 255; fi
if [[ -e {folder}/breaks && $3 == *" log "* ]]; then
    rm {folder}/breaks
    timeout 1 sh -c "$3" | head --bytes=20
    echo "Connection to ${{2#*@}} closed by remote host." >&2
    exit 255
fi
exec sh -c "$3"
"""
# Stands in for the interpreter: a head listens, another node goes on as long as it does, and the driver counts.
PYTHON = """#!/bin/bash
case "$2" in
ray.scripts.scripts) exec {python} {folder}/ray.py "$@" ;;
sdft_ray.targets.nodes) [[ ! -e {folder}/alone ]] || exec sleep 1000; exit 0 ;;
sdft_ray.launch) ;;
*) exec {python} "$@" ;;
esac
trap '{handler}' TERM
[[ ! -e {folder}/fails ]] || exit 1
for ((number = 1; number <= 12; number++)); do echo "line $number"; sleep 0.1 & wait $!; done
while [[ -e {folder}/endless ]]; do sleep 0.1 & wait $!; done
"""
RAY = """
import os, socket, sys, time
given = dict(word[2:].split("=", 1) for word in sys.argv if word.startswith("--") and "=" in word)
assert os.environ["RAY_AUTH_MODE"] == "token" and open(os.environ["RAY_AUTH_TOKEN_PATH"]).read()
if "--head" in sys.argv:
    assert "RAY_ADDRESS" not in os.environ
    server = socket.create_server(("127.0.0.1", int(given["port"])))
    os.makedirs(given["temp-dir"] + "/session_latest/logs")
    time.sleep(1000)
host, port = given["address"].split(":")
while True:
    socket.create_connection((host, int(port))).close()
    time.sleep(0.2)
"""
CHECKPOINT = "echo checkpoint; exit 143"


composed = cache(compose_with)


class FakeHosts:
    """Two hosts, and what of a test's job runs on them."""

    def __init__(self, folder: Path, handler: str = CHECKPOINT):
        self.folder = folder
        self.runs = folder / "runs"
        (folder / "hosts").write_text("# of the tests\n127.0.0.1\nme@localhost:2222  # the second\n")
        (folder / "ray.py").write_text(RAY)
        self._write("ssh", SSH.format(folder=folder))
        self.hear(handler)

    def hear(self, handler: str) -> None:
        """What the driver does upon SIGTERM, in bash."""
        self._write("python", PYTHON.format(folder=self.folder, python=sys.executable, handler=handler))

    def settings(self, *overrides: str) -> RunConfig:
        given = ["+cluster=local", "cluster.num_nodes=2", "target=ssh", "name=billing", f"runs_dir={self.runs}"]
        given += [f"target.ssh.hosts={self.folder}/hosts", f"target.python={self.folder}/python"]
        return composed(*given, *overrides)

    def job(self, *overrides: str) -> SshJob:
        cfg = self.settings(*overrides)
        return SshJob("billing", cfg.runs_dir, cfg.target.ssh)

    def submit(self, *overrides: str) -> bool:
        return self.job(*overrides).submit([[("", self.settings(*overrides))]])

    def lose(self, host: str, words: str = "ssh: connect to host port 22: Connection timed out") -> None:
        (self.folder / f"away-{host}").write_text(words)

    def find(self, host: str) -> None:
        (self.folder / f"away-{host}").unlink()

    def pid(self, name: str) -> int:
        """That of a file in the job's folder."""
        return int((self.runs / ".jobs" / "billing" / name).read_text())

    def processes(self) -> list[psutil.Process]:
        """All that belong to the test's jobs, by the folder that they name."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if str(self.folder) in " ".join(process.info["cmdline"] or []) and process.pid != os.getpid()
        ]

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)
