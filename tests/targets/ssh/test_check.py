"""mode=check asks the hosts, behind an `ssh` that is none."""

import os
import sys
from pathlib import Path

import pytest

from sdft_ray.errors import SdftError
from sdft_ray.launch.targeting import check_rendered
from tests.targets.ssh.machines import FakeHosts

HERE = f"target.python={sys.executable}"


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHosts:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return FakeHosts(tmp_path)


def check(hosts: FakeHosts, *overrides: str) -> None:
    check_rendered([[("", hosts.settings(HERE, *overrides))]])


def test_hosts_that_are_right_are_told_with_what_they_have(
    hosts: FakeHosts, capsys: pytest.CaptureFixture[str]
) -> None:
    check(hosts)
    said = capsys.readouterr().out
    for host in ("127.0.0.1", "me@localhost:2222"):
        assert f"reached      {host}: sdft_ray and Ray 0." in said
    assert "not checked  whether the hosts reach one another's ports\n" in said and "is not one folder" not in said
    assert said.endswith("no rule is broken\n") and list(hosts.runs.iterdir()) == []


def test_an_address_that_no_name_server_knows_backwards_is_right(
    hosts: FakeHosts, capsys: pytest.CaptureFixture[str]
) -> None:
    (hosts.folder / "hosts").write_text("127.0.0.1 address=192.0.2.1\nme@localhost:2222 address=192.0.2.2\n")
    check(hosts)
    assert capsys.readouterr().out.endswith("no rule is broken\n")


def test_what_would_keep_a_job_from_running_is_named_with_its_host(
    hosts: FakeHosts, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts.lose("127.0.0.1", "me: Permission denied (publickey).")
    (hosts.folder / "hosts").write_text("127.0.0.1 address=nowhere.invalid\nme@localhost gpus=99\n")
    (hosts.folder / "taken").touch()
    with pytest.raises(SdftError, match="5 rules are broken"):
        check(hosts, "target.python=/nowhere/python", f"runs_dir={hosts.folder}/taken")
    said = capsys.readouterr().out
    assert "broken       127.0.0.1: lets this user not in" in said
    assert "broken       me@localhost: bash: line " in said and "set target.python, or activate the environment" in said
    assert "GPUs, and is to give Ray 99\n" in said
    assert "does not know the name nowhere.invalid; give the first host address=IP" in said
    assert f"cannot write to {hosts.folder}/taken; choose another runs_dir" in said
