"""The hosts file: a line a machine, the driver's first."""

import re
from dataclasses import dataclass
from pathlib import Path

from sdft_ray.config import ClusterConfig
from sdft_ray.config.validation import read_text
from sdft_ray.errors import ConfigError

KEY = "target.ssh.hosts"
LINE = "[USER@]HOST[:PORT] [gpus=8] [address=10.0.0.1]"
# A name never begins with a dash, which ssh would take for an option.
PLACE = re.compile(r"(?P<name>([\w.][\w.-]*@)?(?P<host>\w[\w.-]*))(:(?P<port>\d{1,5}))?")
ADDRESS = re.compile(r"\w[\w.-]*")
NUMBERS = re.compile(r"[\d.]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """One machine."""

    name: str  # as ssh takes it: HOST or USER@HOST
    address: str  # by which the other hosts reach it
    port: str = ""  # of its sshd; "" is what ssh takes
    gpus: int | None = None  # None is as many as the cluster file has on a node
    has_own_address: bool = False  # whether the file gives one, which its Ray node then listens at

    def __str__(self) -> str:
        return f"{self.name}:{self.port}" if self.port else self.name


def read_hosts(file: str) -> list[Host]:
    """The hosts of a file, in its order.

    Raises:
        ConfigError: there is none, or a line is no host; with the line.
    """
    if not file:
        raise ConfigError(KEY, "''", "names no hosts file", f"write a file with a line a host: {LINE}")
    path, hosts = Path(file).expanduser(), dict[str, Host]()
    for number, line in enumerate(read_text(KEY, path).splitlines(), 1):
        if words := line.partition("#")[0].split():
            host = _host(f"{path}, line {number}", words)
            if (other := hosts.get(host.address)) is not None:
                problem = f"{host} is reached at {host.address}, as {other} is"
                remedy = "remove one of them, or give each its own address=IP"
                raise ConfigError(KEY, f"{path}, line {number}", problem, remedy)
            hosts[host.address] = host
    if not hosts:
        raise ConfigError(KEY, path, "has no host in it", f"write a line a host: {LINE}")
    return list(hosts.values())


def hosts_for(cluster: ClusterConfig, file: str) -> list[Host]:
    """The hosts that a run takes: the first of the file, as many as the cluster file has nodes.

    Raises:
        ConfigError: there are fewer, or one has fewer GPUs than a node.
    """
    hosts = read_hosts(file)
    if len(hosts) < cluster.num_nodes:
        problem = f"has {len(hosts)} hosts, and the cluster file {cluster.num_nodes} nodes"
        raise ConfigError(KEY, file, problem, "add hosts, or choose a smaller cluster")
    taken = hosts[: cluster.num_nodes]
    for host in taken:
        if cluster.num_gpus and host.gpus is not None and host.gpus < cluster.gpus_per_node:
            problem = f"{host} has {host.gpus} GPUs, and a node of the cluster file {cluster.gpus_per_node}"
            raise ConfigError(KEY, file, problem, "put a larger host there, or choose another cluster")
    return taken


def _host(place: str, words: list[str]) -> Host:
    found = PLACE.fullmatch(words[0])
    if found is None:
        raise ConfigError(KEY, place, f"{words[0]} is no host", f"write {LINE}")
    if found["port"] and not 1 <= int(found["port"]) <= 65535:
        raise ConfigError(KEY, place, f"{found['port']} is no port", "write one between 1 and 65535")
    given = dict(word.partition("=")[::2] for word in words[1:])
    gpus, address = given.pop("gpus", None), given.pop("address", "")
    is_right = (
        not given and len(words) <= 3 and (gpus is None or gpus.isdigit()) and (not address or _is_address(address))
    )
    if not is_right:
        raise ConfigError(KEY, place, f"{' '.join(words[1:])} says nothing of a host", f"write {LINE}")
    return Host(
        name=found["name"],
        address=address or found["host"],
        port=found["port"] or "",
        gpus=None if gpus is None else int(gpus),
        has_own_address=bool(address),
    )


def _is_address(text: str) -> bool:
    """True when it can be a name, or is an address of IPv4."""
    if NUMBERS.fullmatch(text) is None:
        return bool(ADDRESS.fullmatch(text))
    return text.count(".") == 3 and all(part.isdigit() and int(part) <= 255 for part in text.split("."))
