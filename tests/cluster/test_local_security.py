"""Who can look into, reach and feed the Ray that a run starts on one machine."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sdft_ray.cluster import local_security
from sdft_ray.cluster.environment import actor_environment
from sdft_ray.cluster.local_security import keep_token_private, own_temp_dir
from sdft_ray.config import RolePlacement
from sdft_ray.errors import ClusterError
from sdft_ray.workers.worker import write_for_no_stranger
from tests.cluster.command import ROOT, users_environment

SECRETS = ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "SDFT_JUDGE_API_KEY", "RAY_AUTH_TOKEN")

LISTENERS = """
import json, os, psutil, ray, stat, sys
from pathlib import Path
from sdft_ray.cluster.session import RaySession
from sdft_ray.config import ClusterConfig
with RaySession(ClusterConfig(object_store_gib=0.1), []):
    ray.get(ray.remote(lambda: 0).remote())
    tree = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = {c.laddr.ip for p in tree for c in p.net_connections(kind="inet") if c.status == "LISTEN"}
    print(json.dumps([sorted(listening), ray._private.worker._global_node.get_session_dir_path()]))
"""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_no_secret_of_the_driver_is_passed_to_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray writes what is passed to its logs."""
    for name in SECRETS:
        monkeypatch.setenv(name, "planted")
    for role in ("rollout", "teacher", "learner"):
        assert "planted" not in actor_environment(role, RolePlacement()).values()


def test_the_folder_of_rays_sessions_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/r")
    monkeypatch.setattr(local_security, "Path", lambda _: tmp_path)
    monkeypatch.setattr(local_security, "SOCKET_PATH_BYTES", 1000)
    folder = own_temp_dir().parent
    assert mode_of(folder) == 0o700
    folder.chmod(0o777)
    assert own_temp_dir().parent == folder and mode_of(folder) == 0o700
    folder.rmdir()
    folder.symlink_to("/tmp")
    with pytest.raises(ClusterError, match="is no folder of yours"):
        own_temp_dir()


def test_a_folder_too_deep_for_rays_sockets_is_refused_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 60)
    with pytest.raises(ClusterError, match="RAY_TMPDIR=/tmp/x+: is too long .* 107 bytes"):
        own_temp_dir()
    assert not Path("/tmp/" + "x" * 60).exists()


@pytest.mark.parametrize("is_there", [False, True])
def test_the_token_is_readable_by_its_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in local_security.TOKEN_IS_ELSEWHERE:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / ".ray" / "auth_token"
    if is_there:
        file.parent.mkdir()
        file.write_text("as it was")
    keep_token_private()
    assert mode_of(file) == 0o600
    assert (file.read_text() == "as it was") is is_there and len(file.read_text()) >= 9


def test_what_a_run_writes_is_not_writable_by_all(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_for_no_stranger()
        (tmp_path / "file").touch()
    finally:
        os.umask(before)
    assert not mode_of(tmp_path / "file") & 0o002


@pytest.mark.cluster
def test_ray_on_one_machine_listens_on_the_loopback_alone() -> None:
    process = subprocess.run(
        [sys.executable, "-c", LISTENERS],
        env=users_environment(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        text=True,
        timeout=200,
        check=True,
    )
    listening, session = json.loads(process.stdout.splitlines()[-1])
    assert listening and {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert mode_of(Path(session).parents[1]) == 0o700
