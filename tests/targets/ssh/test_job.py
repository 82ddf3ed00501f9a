"""A job on hosts from submission to end: its script really runs, behind an `ssh` that is none."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sdft_ray.errors import ClusterError, ConfigError
from sdft_ray.targets.following import Follower, Pace
from sdft_ray.targets.jobs import JobState, JobStatus, Unreachable
from tests.targets.ssh.machines import FakeHosts

QUICK = Pace(patience_s=20, poll_s=0.05, silence_s=4, first_delay_s=0.05, longest_delay_s=0.1)
LINES = "".join(f"line {number}\n" for number in range(1, 13))


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHosts]:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    hosts = FakeHosts(tmp_path)
    yield hosts
    for process in hosts.processes():
        process.kill()
    for file in hosts.runs.glob(".jobs/*/id"):
        for folder in Path("/tmp").glob(f"sdft-{file.read_text()}-*"):
            shutil.rmtree(folder)


def follow(hosts: FakeHosts) -> tuple[JobStatus, str, list[str]]:
    log, said = list[str](), list[str]()
    status = asyncio.run(Follower(hosts.job(), log.append, said.append, QUICK).follow())
    return status, "".join(log), said


def wait_for(state: JobState, hosts: FakeHosts) -> None:
    deadline = time.monotonic() + 30
    while (status := hosts.job().status()).state is not state:
        assert time.monotonic() < deadline, status
        time.sleep(0.1)


def test_a_job_runs_once_to_its_end_and_leaves_no_process(hosts: FakeHosts) -> None:
    assert hosts.submit() is True
    assert hosts.submit() is False, "it is attached to, and nothing is started twice"
    with pytest.raises(ConfigError, match=r"taken by a job with other settings: batch_size=8 \(there 16\)"):
        hosts.submit("batch_size=8")
    (hosts.folder / "breaks").touch()
    status, log, said = follow(hosts)
    assert status.state is JobState.SUCCEEDED
    assert log == LINES, "also behind a connection that broke"
    assert any("closed by remote host" in words for words in said)
    assert hosts.submit() is False, "a job that has ended is told of, and not begun anew"
    deadline = time.monotonic() + 30
    while hosts.processes():
        assert time.monotonic() < deadline, hosts.processes()
        time.sleep(0.2)
    folder = hosts.runs / ".jobs" / "billing"
    assert (folder / "token").stat().st_mode & 0o077 == 0
    assert (folder / "host-0.ray-logs").is_dir()
    assert not list(Path("/tmp").glob(f"sdft-{(folder / 'id').read_text()}-*"))


def test_a_stopped_driver_writes_a_checkpoint_first_and_its_name_is_free(hosts: FakeHosts) -> None:
    (hosts.folder / "endless").touch()
    hosts.submit()
    wait_for(JobState.RUNNING, hosts)
    hosts.job().stop()
    assert hosts.processes() == []
    (kept,) = (hosts.runs / ".jobs").glob("billing-*")
    assert (kept / "host-0.log").read_text().endswith("checkpoint\n")
    assert (kept / "host-0.code").read_text() == "143\n"
    assert hosts.job().status().state is JobState.MISSING
    hosts.job().stop()
    assert hosts.submit("batch_size=8") is True


def test_a_driver_that_does_not_hear_is_killed_behind_its_grace_and_ray_ends_too(hosts: FakeHosts) -> None:
    hosts.hear("echo heard nothing")
    (hosts.folder / "endless").touch()
    hosts.submit("target.ssh.grace_s=1")
    wait_for(JobState.RUNNING, hosts)
    hosts.job("target.ssh.grace_s=1").stop()
    assert hosts.processes() == []


def test_a_job_that_waits_for_its_hosts_is_stopped_and_what_is_anothers_stays(hosts: FakeHosts) -> None:
    (hosts.folder / "alone").touch()
    others = subprocess.Popen(["sleep", "1000"], env={"SDFT_RAY_JOB": "another-0"})
    hosts.submit()
    assert hosts.job().status().state is JobState.WAITING
    hosts.job().stop()
    assert hosts.processes() == [] and others.poll() is None
    others.kill()
    others.wait()


def test_what_a_killed_script_has_left_is_ended_and_a_number_that_is_anothers_by_now_is_left_alone(
    hosts: FakeHosts,
) -> None:
    (hosts.folder / "endless").touch()
    hosts.submit()
    wait_for(JobState.RUNNING, hosts)
    os.kill(hosts.pid("host-0.pid"), signal.SIGKILL)
    wait_for(JobState.LOST, hosts)
    (hosts.runs / ".jobs" / "billing" / "host-0.pid").write_text(f"{os.getpid()}\n")  # as behind a restart of the host
    assert hosts.job().status().state is JobState.LOST
    assert psutil.pid_exists(hosts.pid("host-0.driver"))
    hosts.job().stop()
    assert hosts.processes() == []


def test_a_run_that_fails_and_one_that_never_began_are_told_apart(hosts: FakeHosts) -> None:
    (hosts.folder / "fails").touch()
    hosts.submit()
    wait_for(JobState.FAILED, hosts)
    hosts.job().stop()
    (hosts.folder / "ray.py").write_text("raise SystemExit('no port')")
    (hosts.folder / "alone").touch()
    hosts.submit()
    wait_for(JobState.NEVER_RAN, hosts)


def test_a_host_that_is_away_is_noticed_before_anything_is_started_and_a_second_submission_goes_on(
    hosts: FakeHosts,
) -> None:
    hosts.lose("localhost")
    with pytest.raises(Unreachable, match="ssh me@localhost:2222: .*Connection timed out"):
        hosts.submit()
    assert hosts.processes() == []
    assert "mode=submit starts it" in hosts.job().status().words
    hosts.find("localhost")
    assert hosts.submit() is True
    assert follow(hosts)[0].state is JobState.SUCCEEDED


def test_a_host_that_is_away_when_a_job_is_stopped_is_named_and_the_name_is_free(hosts: FakeHosts) -> None:
    (hosts.folder / "endless").touch()
    hosts.submit()
    wait_for(JobState.RUNNING, hosts)
    hosts.lose("localhost")
    with pytest.raises(ClusterError, match=r"its name is free, but not all .*\(ssh me@localhost:2222: "):
        hosts.job().stop()
    assert hosts.job().status().state is JobState.MISSING


def test_a_host_that_has_given_up_is_told_while_the_others_wait(hosts: FakeHosts) -> None:
    (hosts.folder / "alone").touch()
    hosts.submit()
    os.kill(hosts.pid("host-1.pid"), signal.SIGTERM)
    deadline = time.monotonic() + 30
    while "me@localhost:2222: ended 143; see" not in (words := hosts.job().status().words):
        assert time.monotonic() < deadline, words
        time.sleep(0.2)
    hosts.job().stop()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "me@localhost: Permission denied (publickey).",
            "lets this user not in .*'ssh -p 2222 me@localhost' has to work",
        ),
        ("Host key verification failed.", "is not known to ssh .*call 'ssh -p 2222 me@localhost' once"),
        ("ssh: Could not resolve hostname localhost: Name or service not known", "is not known to ssh"),
    ],
)
def test_what_asking_again_does_not_mend_is_refused_with_host_and_remedy(
    hosts: FakeHosts, words: str, message: str
) -> None:
    hosts.lose("localhost", words)
    with pytest.raises(ClusterError, match=f"me@localhost:2222: {message}") as refused:
        hosts.submit()
    assert not isinstance(refused.value, Unreachable)


def test_without_ssh_it_is_said_what_is_missing(hosts: FakeHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    (hosts.folder / "ssh").unlink()
    monkeypatch.setenv("PATH", str(hosts.folder))
    with pytest.raises(ClusterError, match="ssh is not installed"):
        hosts.job().status()


def test_a_folder_that_hosts_cannot_have_is_refused(hosts: FakeHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="runs_dir=runs: is a path from this command's folder"):
        hosts.job("runs_dir=runs")
    (hosts.folder / "rows.jsonl").touch()
    monkeypatch.chdir(hosts.folder)
    with pytest.raises(ConfigError, match="data.source=rows.jsonl: is a file of this machine"):
        hosts.submit("data=jsonl", "data.source=rows.jsonl")
