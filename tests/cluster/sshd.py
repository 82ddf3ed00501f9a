"""Two hosts on this machine: an sshd of the tests' own, with its own keys, at two addresses of the loopback."""

import getpass
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.command import free_ports

SSHD = """\
Port {port}
ListenAddress 127.0.0.1
ListenAddress 127.0.0.2
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/sshd.pid
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
    """The hosts file; the directory `folder/bin` has the `ssh` that reaches them. Skips where there is no sshd."""
    sshd = shutil.which("sshd", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    ssh = shutil.which("ssh")
    if sshd is None or ssh is None:
        pytest.skip("sshd or ssh is not installed; Debian's openssh-server and openssh-client have them")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # in which sshd, as root, shuts itself up
    (port,) = free_ports(1)
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "sshd_config").write_text(SSHD.format(folder=folder, port=port))
    (folder / "ssh_config").write_text(CONFIG.format(folder=folder))
    host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text("".join(f"[127.0.0.{last}]:{port} {host_key}\n" for last in (1, 2)))
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(SSH.format(ssh=ssh, folder=folder))
    (folder / "bin" / "ssh").chmod(0o755)
    hosts = folder / "hosts"
    hosts.write_text("".join(f"{getpass.getuser()}@127.0.0.{last}:{port}\n" for last in (1, 2)))
    process = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.PIPE)
    try:
        time.sleep(0.5)
        assert process.poll() is None and process.stderr, process.stderr and process.stderr.read()
        yield hosts
    finally:
        process.terminate()
        process.wait(timeout=30)
