"""The hosts file, and what every host is handed."""

import subprocess
from pathlib import Path

import pytest

from sdft_ray.errors import ConfigError
from sdft_ray.launch import CONF
from sdft_ray.targets.ssh.hosts import read_hosts
from sdft_ray.targets.ssh.script import host_script
from tests.targets.ssh.examples import EXAMPLES, FOLDER, text
from tests.test_conf import compose_with

CLUSTERS = sorted(path.stem for path in (CONF / "cluster").glob("*.yaml"))


def script(hosts: Path, *overrides: str) -> str:
    return host_script(
        compose_with("target=ssh", "runs_dir=/shared/runs", f"target.ssh.hosts={hosts}", *overrides), "a"
    )


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    (tmp_path / "hosts").write_text("".join(f"node{number}\n" for number in range(8)))
    return tmp_path / "hosts"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_its_command_renders(name: str) -> None:
    assert (FOLDER / f"{name}.sh").read_text() == text(name), "run python -m tests.targets.ssh.examples"


@pytest.mark.parametrize("name", CLUSTERS)
def test_hosts_and_gpus_are_those_of_the_cluster_file_and_bash_can_read_the_script(name: str, hosts: Path) -> None:
    written, cluster = script(hosts, f"+cluster={name}"), compose_with(f"+cluster={name}").cluster
    taken = [f"node{number}" for number in range(cluster.num_nodes)]
    assert f"addresses=({' '.join(taken)})" in written
    gpus = str(cluster.gpus_per_node if cluster.num_gpus else 0)
    assert f"gpus=({' '.join([gpus] * len(taken))})" in written
    checked = subprocess.run(["bash", "-n"], input=written, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_a_line_of_the_hosts_file_has_user_port_gpus_and_address(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# all\n\nnode1\nme@node2:2222 gpus=4 address=10.0.0.2  # the second\n")
    first, second = read_hosts(str(tmp_path / "hosts"))
    assert (first.name, first.port, first.gpus, first.address) == ("node1", "", None, "node1")
    assert (second.name, second.port, second.gpus, second.address) == ("me@node2", "2222", 4, "10.0.0.2")
    assert not first.has_own_address and second.has_own_address


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-oProxyCommand=x", "line 2: -oProxyCommand=x is no host"),
        ("node2 gpu=8", "line 2: gpu=8 says nothing of a host; write"),
        ("node2 gpus=many", "line 2: gpus=many says nothing of a host"),
        ("node1", "line 2: node1 is reached at node1, as node1 is; remove one of them"),
        ("me@node1:2222", "line 2: me@node1:2222 is reached at node1, as node1 is"),
        ("node2 address=node1", "line 2: node2 is reached at node1, as node1 is"),
        ("node2:0", "line 2: 0 is no port"),
        ("node2:99999", "line 2: 99999 is no port"),
        ("node2 address=10.0.0.300", "line 2: address=10.0.0.300 says nothing of a host"),
        ("node2 gpus=8 gpus=4 address=a", "line 2: gpus=8 gpus=4 address=a says nothing of a host"),
    ],
)
def test_a_line_that_is_no_host_is_refused_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "hosts").write_text(f"node1\n{line}\n")
    with pytest.raises(ConfigError, match=f"target.ssh.hosts=.*{message}"):
        read_hosts(str(tmp_path / "hosts"))


def test_too_few_hosts_and_too_small_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no hosts file"):
        read_hosts("")
    (tmp_path / "hosts").write_text("# none\n")
    with pytest.raises(ConfigError, match="has no host in it"):
        read_hosts(str(tmp_path / "hosts"))
    (tmp_path / "hosts").write_text("node1 gpus=4\n")
    with pytest.raises(ConfigError, match="node1 has 4 GPUs, and a node of the cluster file 8"):
        script(tmp_path / "hosts", "+cluster=8xA100")
    with pytest.raises(ConfigError, match="has 1 hosts, and the cluster file 2 nodes"):
        script(tmp_path / "hosts", "+cluster=2x8xH100")


def test_a_path_with_a_space_stays_one_word(hosts: Path) -> None:
    written = script(hosts, "+cluster=8xA100", "runs_dir='/shared/my runs'", "target.python='/my env/python'")
    assert "folder='/shared/my runs/.jobs/a'\n" in written and "python='/my env/python'\n" in written


def test_fewer_cpus_than_the_workers_need_and_ports_beyond_the_last_are_refused(hosts: Path) -> None:
    with pytest.raises(ConfigError, match="target.ssh.cpus_per_node=1: is less than"):
        script(hosts, "+cluster=8xA100", "target.ssh.cpus_per_node=1")
    with pytest.raises(ConfigError, match="target.ssh.port=65000: is not the first of 1000 ports"):
        script(hosts, "+cluster=8xA100", "target.ssh.port=65000")
