"""A cluster that was started as users start one, with `ray start`, is joined and submitted to."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from ray._private import services, worker

from sdft_ray.cluster import session
from sdft_ray.cluster.placement import end_workers
from sdft_ray.cluster.session import RaySession, in_groups_of_their_own, prepare_to_join
from sdft_ray.config import ClusterConfig
from sdft_ray.errors import ClusterError, RayLostError
from sdft_ray.targets.jobs import JobState
from sdft_ray.workers import closing
from tests.cluster.command import ROOT, SETTINGS, free_ports, users_environment

HOLD = """
import ray
from sdft_ray.cluster.session import RaySession
from sdft_ray.config import ClusterConfig
with RaySession(ClusterConfig()):
    print(int(ray.cluster_resources()["CPU"]), "CPUs")
"""


class Head:
    """A head node of `ray start` in a home of its own, whose user has a token from an earlier Ray."""

    def __init__(self, home: Path):
        self.ports = free_ports(5)
        self.pid = 0  # of `ray start`
        self.home = home
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.ports[1]}"

    def environment(self, **variables: str) -> dict[str, str]:
        """That of a shell of the head's user."""
        return users_environment(**{"HOME": str(self.home), "PYTHONPATH": str(ROOT)} | variables)

    def start(self, temp_dir: str) -> subprocess.Popen[bytes]:
        gcs, dashboard, client, agent, agent_grpc = self.ports
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=8"]
        command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        command += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"]
        command += [f"--temp-dir={temp_dir}", f"--object-store-memory={2**28}", "--disable-usage-stats"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(command, env=self.environment(PATH=path), stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    head = Head(tmp_path_factory.mktemp("home"))
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temp_dir:  # short: it holds sockets
        process = head.start(temp_dir)
        head.pid = process.pid
        try:
            wait_for(head.ports[0], process)
            wait_for(head.ports[1], process)
            yield head
        finally:
            tree = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(timeout=60)
            _, alive = psutil.wait_procs(tree, timeout=30)
            for child in alive:
                child.kill()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "ray start has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError(f"nobody listens at {port}")


def join(head: Head, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = head.environment(RAY_ADDRESS=head.address, **variables)
    return subprocess.run([sys.executable, "-c", HOLD], env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_joins_it_at_its_address(head: Head) -> None:
    joined = join(head)
    assert joined.stdout == "8 CPUs\n", joined.stderr


WITHOUT = {
    "no token": {},
    "another token": {"RAY_AUTH_TOKEN": "f" * 64},
    "told to send one, but has none": {"RAY_AUTH_MODE": "token"},
}


@pytest.mark.parametrize("variables", WITHOUT.values(), ids=WITHOUT)
def test_without_its_token_the_command_says_what_to_set(head: Head, tmp_path: Path, variables: dict[str, str]) -> None:
    refused = join(head, HOME=str(tmp_path), **variables)
    assert refused.returncode == 1
    last = refused.stderr.strip().splitlines()[-1]
    assert f"RAY_ADDRESS={head.address}: this Ray cluster wants another token" in last
    assert "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what 'ray get-auth-token' prints" in last


def sdft(head: Head, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "sdft_ray.launch", "target=ray", f"target.address={head.dashboard}", *overrides]


def submit(
    head: Head, *overrides: str, python: str = sys.executable, **variables: str
) -> subprocess.CompletedProcess[str]:
    command = sdft(head, "mode=submit", f"target.python={python}", *SETTINGS, *overrides)
    environment = head.environment(**variables)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)


def test_a_run_is_submitted_to_it_as_the_readme_says(head: Head, folder: str, tmp_path: Path) -> None:
    done = submit(head, "method=sft", "num_steps=1", "name=one", f"model.path={folder}", f"runs_dir={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "one" / "summary.json").exists()


def test_a_head_whose_python_lacks_the_packages_says_how_to_name_another(head: Head, tmp_path: Path) -> None:
    bare = Path(sys.base_prefix) / "bin" / "python3"
    refused = submit(head, f"runs_dir={tmp_path}", "name=bare", "model.path=unread", python=str(bare))
    assert refused.returncode == JobState.FAILED.value
    assert f"error: {str(bare)!r} on the head node has no such package; set target.python" in refused.stdout


def test_without_its_token_a_submission_says_what_to_set(head: Head, tmp_path: Path) -> None:
    refused = submit(head, f"runs_dir={tmp_path}", "name=closed", "model.path=unread", HOME=str(tmp_path))
    assert refused.returncode == 1
    assert f"error: {head.dashboard}: this Ray cluster wants another token" in refused.stderr
    assert "Traceback" not in refused.stderr


# Stands in for the interpreter: a job that ends when it is told to, which a real run does not. It is Ray's job all the
# same. SIGTERM finds it with a checkpoint to write, which takes longer than Ray's own three seconds.
COUNTING = """#!/bin/sh
trap 'sleep 6; touch "$0.checkpoint"; exit 143' TERM
number=0
until [ -e "$0.end" ]; do number=$((number+1)); echo "line $number"; sleep 1 & wait $!; done
echo "$number lines"
"""


@pytest.fixture
def counting(tmp_path: Path) -> str:
    script = tmp_path / "counting"
    script.write_text(COUNTING)
    script.chmod(0o755)
    return str(script)


class Submitter:
    """The command as a process of its own, whose output is read while it goes on."""

    def __init__(self, head: Head, log: Path, *overrides: str):
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                sdft(head, "mode=submit", *overrides), cwd=ROOT, env=head.environment(), stdout=file, stderr=file
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 120
        while text not in self.output:
            assert time.monotonic() < deadline and self.process.poll() is None, self.output
            time.sleep(0.2)


def ask(head: Head, *overrides: str) -> tuple[int, str]:
    done = subprocess.run(
        sdft(head, *overrides), cwd=ROOT, env=head.environment(), capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def test_a_job_survives_its_submitter_and_the_submitter_a_blocked_dashboard(
    head: Head, counting: str, tmp_path: Path
) -> None:
    job = ["name=counted", "+cluster=local", f"target.python={counting}", f"runs_dir={tmp_path}/runs"]
    first = Submitter(head, tmp_path / "first.log", *job)
    first.wait_for("line 2")
    first.process.kill()
    first.process.wait()
    second = Submitter(head, tmp_path / "second.log", *job)
    second.wait_for("attached to counted-")
    second.wait_for("line 2")
    (dashboard,) = [
        process
        for process in psutil.Process(head.pid).children(recursive=True)
        if any(part.endswith("dashboard/dashboard.py") for part in process.cmdline())
    ]
    dashboard.suspend()
    time.sleep(20)
    dashboard.resume()
    Path(f"{counting}.end").touch()
    assert second.process.wait(timeout=180) == 0, second.output
    lines = [line for line in second.output.splitlines() if line.startswith("line ")]
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)], "every line once, in order"
    assert f"\n{len(lines)} lines\n" in second.output, "to the last one"
    code, said = ask(head, "mode=submit", *job)
    assert code == 0 and "attached to" in said, "a job that has ended is told of, and not begun anew"


def test_a_job_is_asked_after_and_stopped_by_its_name_alone(head: Head, counting: str, tmp_path: Path) -> None:
    job = ["name=stopped", "+cluster=local", f"target.python={counting}", f"runs_dir={tmp_path}/runs"]
    assert ask(head, "mode=status", "name=stopped")[0] == JobState.MISSING.value
    code, said = ask(head, "mode=submit", "target.watch=false", *job)
    assert code == 0, said
    code, said = ask(head, "mode=submit", *job, "batch_size=3")
    assert code == 1 and "name=stopped: is taken by a job with other settings: batch_size=3 (there 16)" in said
    code, said = ask(head, "mode=status", "name=stopped")
    assert JobState(code) in (JobState.WAITING, JobState.RUNNING), said
    follower = Submitter(head, tmp_path / "follower.log", *job)
    follower.wait_for("line 1")
    code, said = ask(head, "mode=stop", "name=stopped")
    assert code == 0 and "its name is free" in said
    assert Path(f"{counting}.checkpoint").exists(), "SIGKILL has come too early"
    assert follower.process.wait(timeout=60) == JobState.STOPPED.value, follower.output
    assert ask(head, "mode=status", "name=stopped")[0] == JobState.MISSING.value
    assert ask(head, "mode=stop", "name=stopped")[0] == 0, "stopped twice"


def test_a_signal_to_the_group_of_the_command_does_not_reach_the_processes_of_its_ray() -> None:
    with in_groups_of_their_own():
        started = services.start_ray_process(["sleep", "60"], "raylet", fate_share=False).process
    assert os.getpgid(started.pid) == started.pid
    started.kill()
    started.wait()


@pytest.mark.parametrize(("dead", "has_workers"), [("gcs_server", True), ("raylet", False)])
async def test_a_ray_of_ones_own_that_dies_is_found_by_name_and_a_dead_dashboard_is_let_be(
    monkeypatch: pytest.MonkeyPatch, dead: str, has_workers: bool
) -> None:
    processes = [("dashboard", None)]
    node = SimpleNamespace(dead_processes=lambda: processes, get_logs_dir_path=lambda: "/the/logs")
    monkeypatch.setattr(worker, "_global_node", node)
    monkeypatch.setattr(session, "POLL_S", 0.001)
    mine = RaySession(ClusterConfig())
    watched = asyncio.create_task(mine.watch())
    await asyncio.sleep(0.05)
    assert not watched.done()
    processes.append((dead, None))
    async with asyncio.timeout(5):
        with pytest.raises(RayLostError, match=f"Ray's {dead} on this machine has died.*/the/logs.*resume=auto"):
            await watched
    assert mine.has_workers is has_workers


async def test_a_watched_block_ends_when_ray_dies_and_its_workers_are_asked_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes: list[tuple[str, None]] = []
    node = SimpleNamespace(dead_processes=lambda: processes, get_logs_dir_path=lambda: "/the/logs")
    monkeypatch.setattr(session, "POLL_S", 0.001)
    monkeypatch.setattr(RaySession, "__enter__", lambda self: monkeypatch.setattr(worker, "_global_node", node) or self)
    monkeypatch.setattr(RaySession, "__exit__", lambda *_: None)
    asked: list[str] = []
    group, places = SimpleNamespace(abandon=lambda: asked.append("workers") or []), SimpleNamespace()
    places.release = lambda: asked.append("places")
    monkeypatch.setattr(closing.ray, "wait", lambda *_, **__: None)
    with pytest.raises(ExceptionGroup) as failed:
        async with asyncio.timeout(5), RaySession(ClusterConfig()).watched():
            end_workers([group], [places])
            assert asked == ["workers", "places"]
            processes.append(("raylet", None))
            try:
                await asyncio.Event().wait()  # an answer that never comes
            finally:
                end_workers([group], [places])
    assert isinstance(failed.value.exceptions[0], RayLostError)
    assert asked == ["workers", "places"]
    processes.clear()
    async with asyncio.timeout(5), RaySession(ClusterConfig()).watched():
        pass  # which ends though the watch would not


def test_every_mode_that_starts_a_ray_watches_it() -> None:
    files = [path for path in (ROOT / "sdft_ray").rglob("*.py") if path.name != "session.py"]
    starting = {path.stem: text for path in files if "RaySession(" in (text := path.read_text())}
    assert set(starting) == {"job", "evaluation", "check", "preflight_job"}
    assert [name for name, text in starting.items() if ".watched()" not in text and "session.watch()" not in text] == []


def test_where_nobody_answers_the_address_is_named_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    assert session.ANSWER_TIMEOUT_S <= 30
    monkeypatch.setattr(session, "ANSWER_TIMEOUT_S", 1.0)
    (port,) = free_ports(1)
    with pytest.raises(ClusterError, match=f"RAY_ADDRESS=127.0.0.1:{port}: no Ray cluster answers there within 1 s"):
        prepare_to_join(f"127.0.0.1:{port}")
    with pytest.raises(ClusterError, match="write HOST:PORT"):
        prepare_to_join("ray://127.0.0.1:10001")


@pytest.mark.parametrize("address", ["", "local", "auto", "10.0.0.1:6379"])
def test_an_address_of_local_starts_a_ray_of_its_own_and_any_other_is_joined(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    done: list[str] = []

    def note(what: str, *_: object) -> SimpleNamespace:
        done.append(what)
        return SimpleNamespace(dashboard_url="")

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(session, "ray", SimpleNamespace(is_initialized=lambda: False))
    monkeypatch.setattr(session, "check_resources", lambda *_: None)
    monkeypatch.setattr(RaySession, "_start", lambda self: note("started"))
    monkeypatch.setattr(RaySession, "_join", lambda self, there: note(f"joined {there}"))
    RaySession(ClusterConfig()).__enter__()
    assert done == ([f"joined {address}"] if address not in ("", "local") else ["started"])


def test_where_no_dashboard_answers_a_status_says_so(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "sdft_ray.launch", "mode=status", "target=ray", "name=any"]
    command += [f"target.address=http://127.0.0.1:{port}"]
    done = subprocess.run(command, cwd=ROOT, env=users_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"error: http://127.0.0.1:{port}: no Ray dashboard answers there" in done.stderr
