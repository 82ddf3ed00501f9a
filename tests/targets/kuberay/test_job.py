"""A RayJob from submission to end, against an API server and a dashboard that hold state."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.errors import ClusterError, ConfigError
from sdft_ray.targets.following import Follower, Pace
from sdft_ray.targets.jobs import JobState, JobStatus, Unreachable
from sdft_ray.targets.kuberay.job import REASONS, KubeRayJob, state_of
from tests.targets.kuberay.fake_cluster import FakeCluster, FakeDashboard
from tests.targets.kuberay.jobs import job_config

TOKEN = "a" * 32
QUICK = Pace(patience_s=20, poll_s=0.05, silence_s=0.3, first_delay_s=0.05, longest_delay_s=0.1)
RUNNING = {
    "jobDeploymentStatus": "Running",
    "jobStatus": "RUNNING",
    "rayClusterName": "billing-x",
    "jobId": "billing-1",
}


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return FakeCluster(tmp_path)


@pytest.fixture
def dashboard(kube: FakeCluster) -> Iterator[FakeDashboard]:
    dashboard = FakeDashboard(kube.folder, TOKEN)
    yield dashboard
    dashboard.close()


def client() -> KubeRayJob:
    return KubeRayJob("billing", job_config().target)


def submit(*overrides: str) -> bool:
    return client().submit([[("", job_config(*overrides))]])


def start_head(kube: FakeCluster, cluster: str = "billing-x") -> None:
    """What the operator makes of a job: a head, and the Secret with the cluster's token."""
    labels = {"ray.io/cluster": cluster, "ray.io/node-type": "head"}
    kube.put("Pod", f"{cluster}-head", metadata={"name": f"{cluster}-head", "labels": labels}, status={})
    kube.put("Secret", cluster, data={"auth_token": base64.b64encode(TOKEN.encode()).decode()})


class Told:
    """What a follower writes and says."""

    def __init__(self) -> None:
        self.log = ""
        self.words: list[str] = []

    def write(self, text: str) -> None:
        self.log += text


def follow(told: Told, pace: Pace = QUICK) -> JobStatus:
    return asyncio.run(Follower(client(), told.write, told.words.append, pace).follow())


def operator(*steps: tuple[Callable[[], bool], Callable[[], Any]]) -> threading.Thread:
    """Plays the operator beside a follower: each act once its condition holds."""

    def play() -> None:
        for condition, act in steps:
            deadline = time.monotonic() + 60
            while not condition() and time.monotonic() < deadline:
                time.sleep(0.02)
            act()

    thread = threading.Thread(target=play)
    thread.start()
    return thread


def test_a_job_is_handed_over_once_and_found_there_afterwards(kube: FakeCluster) -> None:
    assert submit() is True
    assert set(kube.state) == {"ConfigMap|billing", "NetworkPolicy|billing", "RayJob|billing"}
    assert submit() is False
    assert len([call for call in kube.calls if " apply " in call]) == 1


def test_another_job_under_the_name_is_refused_with_what_differs(kube: FakeCluster) -> None:
    submit()
    with pytest.raises(ConfigError, match=r"taken by a job with other settings: batch_size=8 \(there 16\); choose"):
        submit("batch_size=8")
    with pytest.raises(ConfigError, match=r"target.image=other \(there registry/sdft_ray:gpu\)"):
        submit("target.image=other")
    assert submit("target.watch=false", "target.patience_s=5") is False, "how a job is watched is none of it"


def test_a_job_that_this_command_has_not_made_is_left_alone(kube: FakeCluster) -> None:
    kube.put("RayJob", "billing")
    with pytest.raises(ConfigError, match="this command has not made it"):
        submit()


def test_settings_that_a_deleted_job_has_left_are_replaced(kube: FakeCluster) -> None:
    submit()
    state = {key: thing for key, thing in kube.state.items() if not key.startswith("RayJob")}
    (kube.folder / "state.json").write_text(json.dumps(state))
    assert submit("batch_size=8") is True
    assert "batch_size: 8" in kube.state["ConfigMap|billing"]["data"]["run.yaml"]


def test_stopping_frees_the_name_and_keeps_the_claim(kube: FakeCluster) -> None:
    submit("target.storage.create_gib=10")
    assert client().status().state is JobState.WAITING
    client().stop()
    assert list(kube.state) == ["PersistentVolumeClaim|training"]
    assert client().status().state is JobState.MISSING
    client().stop()
    assert submit("batch_size=8") is True


def test_images_that_do_not_come_are_said_while_the_job_waits(kube: FakeCluster) -> None:
    submit()
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image registry/sdft_ray:gpu"}
    labels = {"ray.io/cluster": "billing-x"}
    kube.put(
        "Pod",
        "billing-x-head",
        metadata={"name": "billing-x-head", "labels": labels},
        status={"containerStatuses": [{"state": {"waiting": waiting}}]},
    )
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    kube.put("Pod", "billing-x-w", metadata={"name": "w", "labels": labels}, status={"conditions": [unschedulable]})
    kube.put("RayJob", "billing", status={"jobDeploymentStatus": "Initializing", "rayClusterName": "billing-x"})
    status = client().status()
    assert status.state is JobState.WAITING
    assert "ImagePullBackOff: Back-off pulling image registry/sdft_ray:gpu; Unschedulable: 0/3 nodes" in status.words


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_of_a_failed_deployment_ends_with_its_own_state(kube: FakeCluster, reason: str) -> None:
    submit()
    kube.put("RayJob", "billing", status={"jobDeploymentStatus": "Failed", "reason": reason, "message": "why"})
    told = Told()
    status = follow(told)
    assert status.state is REASONS[reason]
    assert f"reason {reason}; why" in status.words


def test_a_failed_try_is_not_the_end_and_the_next_one_has_a_log_of_its_own(
    kube: FakeCluster, dashboard: FakeDashboard
) -> None:
    submit()
    start_head(kube)
    start_head(kube, "billing-y")
    dashboard.lines = ["of the first"]
    dashboard.has_ended = True
    kube.put("RayJob", "billing", status=RUNNING)

    def retry() -> None:
        dashboard.lines = ["of the second"]
        retrying = {"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED", "failed": 1}
        kube.put("RayJob", "billing", status=retrying)

    second = {**RUNNING, "rayClusterName": "billing-y", "jobId": "billing-2"}
    ended = {**second, "jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    told = Told()
    acts = operator(
        (lambda: "first" in told.log, retry),
        (lambda: "Retrying" in told.words[-1], lambda: kube.put("RayJob", "billing", status=second)),
        (lambda: "second" in told.log, lambda: kube.put("RayJob", "billing", status=ended)),
    )
    status = follow(told)
    acts.join()
    assert status.state is JobState.SUCCEEDED
    assert told.log == "of the first\nof the second\n"


def test_a_broken_stream_goes_on_where_it_broke(kube: FakeCluster, dashboard: FakeDashboard) -> None:
    submit()
    start_head(kube)
    dashboard.lines = [f"line {number}" for number in range(20)]
    dashboard.breaks_after = 7
    kube.put("RayJob", "billing", status=RUNNING)

    def end() -> None:
        dashboard.has_ended = True
        kube.put("RayJob", "billing", status={**RUNNING, "jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"})

    told = Told()
    acts = operator((lambda: "line 19" in told.log, end))
    assert follow(told).state is JobState.SUCCEEDED
    acts.join()
    assert told.log == "".join(f"line {number}\n" for number in range(20))
    assert dashboard.num_streams > 1


def test_an_api_server_that_is_away_for_a_while_is_asked_again(kube: FakeCluster) -> None:
    submit()
    kube.lose_api(lost=True)
    ended = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    kube.put("RayJob", "billing", status=ended)
    told = Told()
    acts = operator((lambda: bool(told.words), lambda: kube.lose_api(lost=False)))
    assert follow(told).state is JobState.SUCCEEDED
    acts.join()
    assert "no answer, asking again" in told.words[0]


def test_an_api_server_that_stays_away_ends_the_command_and_not_the_job(kube: FakeCluster) -> None:
    submit()
    kube.lose_api(lost=True)
    with pytest.raises(Unreachable, match=r"connection refused.*The job goes on; mode=logs follows it again"):
        follow(Told(), Pace(patience_s=0.5, first_delay_s=0.05, longest_delay_s=0.1))


def test_a_job_that_somebody_removes_has_been_stopped(kube: FakeCluster) -> None:
    submit()
    told = Told()
    acts = operator((lambda: bool(told.words), client().stop))
    assert follow(told).state is JobState.STOPPED
    acts.join()


def test_an_end_that_the_operator_never_notes_is_an_end_after_a_while() -> None:
    ended = {**RUNNING, "jobStatus": "FAILED"}
    assert state_of(ended) is JobState.RUNNING, "a new cluster may follow"
    just_now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert state_of({**ended, "rayJobInfo": {"endTime": just_now}}) is JobState.RUNNING
    assert state_of({**ended, "rayJobInfo": {"endTime": "2026-01-01T00:00:00Z"}}) is JobState.FAILED


def test_without_kubectl_it_is_said_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="kubectl is not installed"):
        client().status()
