"""A Ray node that is behind a cable of its own: a network namespace with one link to this machine, which can be cut."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.command import ROOT

NAMESPACE, NETWORK = "sdft-chaos", "10.231.77"
HERE, THERE = f"{NETWORK}.1", f"{NETWORK}.2"
END = f"{NAMESPACE}-0"  # of the link, here
END_TIMEOUT_S = 30.0


class Cable:
    """The namespace and its link; what is there from a run that was killed is made anew."""

    def __init__(self, namespace: str = NAMESPACE, network: str = NETWORK) -> None:
        """Makes them.

        Args:
            namespace: its name, of at most 13 characters.
            network: the first three numbers of both addresses: here .1, there .2.

        Raises:
            PermissionError: this user can make none.
        """
        self.namespace, self.here, self.there = namespace, f"{network}.1", f"{network}.2"
        self._end, far_end = f"{namespace}-0", f"{namespace}-1"
        if shutil.which("ip") is None:
            raise PermissionError("the program ip is not installed")
        self.close()
        try:
            _ip("netns", "add", namespace)
        except (OSError, subprocess.CalledProcessError) as error:
            raise PermissionError("this user may make no network namespace") from error
        _ip("link", "add", self._end, "type", "veth", "peer", "name", far_end, "netns", namespace)
        _ip("address", "add", f"{self.here}/30", "dev", self._end)
        _ip("link", "set", self._end, "up")
        _ip("-netns", namespace, "address", "add", f"{self.there}/30", "dev", far_end)
        for device in ("lo", far_end):
            _ip("-netns", namespace, "link", "set", device, "up")

    def close(self) -> None:
        """Takes both away, if they are there, with what still runs in the namespace."""
        inside = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True).stdout
        for pid in inside.split():
            os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", self.namespace], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "delete", self._end], stderr=subprocess.DEVNULL)


def is_behind(pid: int) -> bool:
    """True when that process is in the namespace."""
    return Path(f"/proc/{pid}/ns/net").stat().st_ino == Path(f"/run/netns/{NAMESPACE}").stat().st_ino


def cut() -> None:
    """From now on nothing reaches the node, and it reaches nobody; no connection is told of it."""
    _ip("link", "set", END, "down")


def mend() -> None:
    """The link works again."""
    _ip("link", "set", END, "up")


class NodeBehindCable:
    """A Ray node in the namespace."""

    def __init__(self, address: str, num_cpus: int, object_store_memory: int):
        command = ["ip", "netns", "exec", NAMESPACE, sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        command += [f"--address={address}", f"--node-ip-address={THERE}", f"--num-cpus={num_cpus}"]
        command += [f"--object-store-memory={object_store_memory}", "--disable-usage-stats"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @property
    def is_alive(self) -> bool:
        """Its raylet, whose end ends all of the node."""
        return self._process.poll() is None

    def close(self) -> None:
        """Ends it, and what of it is left."""
        mine: list[Any] = psutil.Process(self._process.pid).children(recursive=True) if self.is_alive else []
        self._process.terminate()
        _, left = psutil.wait_procs([self._process, *mine], timeout=END_TIMEOUT_S)
        for process in left:
            process.kill()
        self._process.wait()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
