"""target=kuberay: a RayJob from its submission to its end."""

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sdft_ray.config import TargetConfig
from sdft_ray.errors import ConfigError
from sdft_ray.targets.identity import check_same
from sdft_ray.targets.jobs import JobState, JobStatus, Unreachable
from sdft_ray.targets.kuberay.kubectl import Kubectl
from sdft_ray.targets.kuberay.objects import pod_files, render, written
from sdft_ray.targets.kuberay.pod_template import HEAD_PORTS, JOB_LABEL
from sdft_ray.targets.ray_jobs import RayJobs
from sdft_ray.targets.run_file import Run

KIND = "rayjobs.ray.io"
MADE = [KIND, "configmaps", "networkpolicies.networking.k8s.io"]  # of a job alone; its claim outlives it
MONITOR = "podmonitors.monitoring.coreos.com"
TOKEN_KEY = "auth_token"  # in the Secret that the operator makes
# Deployment statuses in which the operator is done with a job; in all others it may still make a new cluster.
ENDED = ("Complete", "Failed", "ValidationFailed")
REASONS = {
    "AppFailed": JobState.FAILED,
    "DeadlineExceeded": JobState.OUT_OF_TIME,
    "PreRunningDeadlineExceeded": JobState.NEVER_RAN,
    "SubmissionFailed": JobState.NEVER_RAN,
    "ValidationFailed": JobState.NEVER_RAN,
    "JobStatusCheckTimeoutExceeded": JobState.LOST,
    "JobDeploymentStatusTransitionGracePeriodExceeded": JobState.LOST,
}
NOTED_S = 600  # in which the operator notes that Ray's job has ended
OF_RAY = {"SUCCEEDED": JobState.SUCCEEDED, "STOPPED": JobState.STOPPED, "FAILED": JobState.FAILED}


class KubeRayJob:
    """The RayJob of one name."""

    def __init__(self, name: str, target: TargetConfig):
        """Asks nothing yet.

        Args:
            name: of the job, as `jobs.job_name` writes it.
            target: namespace and context.
        """
        self._name = name
        self._target = target
        self._kubectl = Kubectl(target.namespace, target.kube_context)
        self._selector = f"{JOB_LABEL}={name}"
        self._ray_job = f"RayJob {target.namespace}/{name}"

    @property
    def place(self) -> str:
        """See `JobClient`."""
        return self._ray_job

    def submit(self, runs: Sequence[Run]) -> bool:
        """See `JobClient`."""
        objects, files = render(runs), pod_files(runs)
        there = self._kubectl.get(KIND, self._name)
        if there is not None:
            kept = self._kubectl.get("configmap", self._name)
            if kept is None or there["metadata"].get("labels", {}).get(JOB_LABEL) != self._name:
                problem = f"{self._ray_job} is there, and this command has not made it"
                raise ConfigError("name", self._name, problem, "choose another name, or delete it with kubectl")
            check_same(self._name, files, kept["data"], "choose another name, or end that job with mode=stop")
            return False
        # One that a deleted job has left cannot be changed, only replaced.
        self._kubectl.delete(["configmaps"], self._selector)
        self._kubectl.apply(written(objects))
        return True

    def status(self) -> JobStatus:
        """See `JobClient`."""
        job = self._kubectl.get(KIND, self._name)
        if job is None:
            return JobStatus(state=JobState.MISSING, words=f"there is no {self._ray_job}")
        status: Mapping[str, Any] = job.get("status") or {}
        state = state_of(status)
        words = words_of(status)
        if state is JobState.WAITING and (cluster := status.get("rayClusterName")):
            words = "; ".join([words, *self._troubles(cluster)])
        attempt = "" if state is JobState.WAITING else _attempt(status)
        return JobStatus(state=state, words=words, attempt=attempt)

    async def log(self, attempt: str) -> AsyncGenerator[str, None]:
        """See `JobClient`. It is read from Ray's dashboard on the head, through a port of this machine."""
        cluster, _, job = attempt.partition("/")
        heads = self._pods(f"ray.io/cluster={cluster},ray.io/node-type=head")
        if not heads:
            raise Unreachable(f"the head of {cluster} is gone; the run folder's logs/driver.log has the log.")
        async with self._kubectl.forwarded(heads[0]["metadata"]["name"], HEAD_PORTS["dashboard"]) as port:
            jobs = RayJobs(f"http://127.0.0.1:{port}", self._headers(cluster))
            async for text in jobs.log_of(job):
                yield text

    def stop(self) -> None:
        """See `JobClient`. The pods get their grace, in which a run writes a checkpoint."""
        kinds = [*MADE, *([MONITOR] if self._target.monitoring_namespace else [])]
        self._kubectl.delete(kinds, self._selector)

    def _headers(self, cluster: str) -> dict[str, str]:
        """What Ray's dashboard asks of a caller; nothing where the cluster has no token."""
        secret = self._kubectl.get("secret", self._target.token_secret or cluster)
        if secret is None or TOKEN_KEY not in secret.get("data", {}):
            return {}
        return {"Authorization": f"Bearer {base64.b64decode(secret['data'][TOKEN_KEY]).decode().strip()}"}

    def _pods(self, selector: str) -> list[dict[str, Any]]:
        found = self._kubectl.get("pods", selector=selector)
        items: list[dict[str, Any]] = (found or {}).get("items", [])
        return items

    def _troubles(self, cluster: str) -> list[str]:
        """Why pods of a cluster have not started, once each."""
        found = [trouble for pod in self._pods(f"ray.io/cluster={cluster}") for trouble in troubles_of(pod)]
        return list(dict.fromkeys(found))


def state_of(status: Mapping[str, Any]) -> JobState:
    """How a RayJob stands: by the status of its deployment, then by the reason, then by that of Ray's job."""
    deployment, of_ray = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    if deployment == "Running" and of_ray in OF_RAY and _ended_long_ago(status):
        return OF_RAY[of_ray]
    if deployment not in ENDED:
        # Between a failure and the next cluster Ray's job has failed, and the RayJob has not.
        return JobState.RUNNING if deployment == "Running" and of_ray != "PENDING" else JobState.WAITING
    if deployment == "ValidationFailed":
        return JobState.NEVER_RAN
    if deployment == "Complete":
        return OF_RAY.get(of_ray, JobState.LOST)
    return REASONS.get(status.get("reason", ""), JobState.FAILED)


def _ended_long_ago(status: Mapping[str, Any]) -> bool:
    """True when the operator should have noted an end by now: after a head's restart some versions never do."""
    ended = (status.get("rayJobInfo") or {}).get("endTime", "")
    if not ended:
        return False
    return datetime.now(UTC) - datetime.fromisoformat(ended) > timedelta(seconds=NOTED_S)


def words_of(status: Mapping[str, Any]) -> str:
    """Everything that the operator says of a RayJob."""
    words = [f"deployment {status.get('jobDeploymentStatus') or 'not begun'}"]
    for field, name in (("jobStatus", "job"), ("reason", "reason"), ("failed", "failed tries")):
        if value := status.get(field):
            words.append(f"{name} {value}")
    return "; ".join([*words, *filter(None, [status.get("message", "")])])


def troubles_of(pod: Mapping[str, Any]) -> list[str]:
    """Why a pod does not run: images that do not come, containers that end, no node with room."""
    status = pod.get("status", {})
    found = []
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            found.append(": ".join(filter(None, [waiting["reason"], waiting.get("message", "")])))
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            found.append(": ".join(filter(None, [condition.get("reason", ""), condition.get("message", "")])))
    return found


def _attempt(status: Mapping[str, Any]) -> str:
    cluster, job = status.get("rayClusterName", ""), status.get("jobId", "")
    return f"{cluster}/{job}" if cluster and job else ""
