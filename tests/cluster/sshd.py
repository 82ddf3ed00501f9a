"""Two hosts on this machine: this one and a network namespace behind a link, each with an sshd of the tests' own."""

import getpass
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.cable import Cable
from tests.cluster.command import free_ports

SSHD = """\
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/sshd-{address}.pid
StrictModes no
UsePAM no
PasswordAuthentication no
"""
SSH = """\
#!/bin/sh
exec {ssh} -F {folder}/ssh_config "$@"
"""
CONFIG = """\
IdentityFile {folder}/key
IdentitiesOnly yes
UserKnownHostsFile {folder}/known_hosts
"""


@contextmanager
def two_hosts(folder: Path) -> Iterator[Path]:
    """The hosts file; `folder/bin` has the `ssh` that reaches them. Skips where there is no sshd, or no namespace."""
    sshd = shutil.which("sshd", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    ssh = shutil.which("ssh")
    if sshd is None or ssh is None:
        pytest.skip("sshd or ssh is not installed; Debian's openssh-server and openssh-client have them")
    try:
        cable = Cable(f"sdft-{os.getpid()}", f"10.232.{os.getpid() % 250}")
    except PermissionError as error:
        pytest.skip(f"the hosts need addresses of their own, and {error}")
    Path("/run/sshd").mkdir(exist_ok=True)  # in which sshd, as root, shuts itself up
    (port,) = free_ports(1)
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "ssh_config").write_text(CONFIG.format(folder=folder))
    host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    addresses = (cable.here, cable.there)
    (folder / "known_hosts").write_text("".join(f"[{address}]:{port} {host_key}\n" for address in addresses))
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(SSH.format(ssh=ssh, folder=folder))
    (folder / "bin" / "ssh").chmod(0o755)
    hosts = folder / "hosts"
    user = getpass.getuser()
    hosts.write_text("".join(f"{user}@{address}:{port} address={address}\n" for address in addresses))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for address, inside in zip(addresses, ([], ["ip", "netns", "exec", cable.namespace]), strict=True):
            configuration = folder / f"sshd_config-{address}"
            configuration.write_text(SSHD.format(folder=folder, port=port, address=address))
            command = [*inside, sshd, "-D", "-e", "-f", str(configuration)]
            processes.append(subprocess.Popen(command, stderr=subprocess.PIPE))
        time.sleep(0.5)
        for process in processes:
            assert process.poll() is None and process.stderr, process.stderr and process.stderr.read()
        yield hosts
    finally:
        for process in processes:
            process.terminate()
            process.wait(timeout=30)
        cable.close()
