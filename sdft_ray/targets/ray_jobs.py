"""Ray's own client for jobs, with a deadline on every call and failures told apart by whether asking again helps."""

import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp
import requests
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.dashboard.modules.job.common import JobStatus as RayStatus
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from sdft_ray.errors import ClusterError, first_line
from sdft_ray.targets.jobs import JobState, JobStatus, Unreachable

ANSWER_TIMEOUT_S = 10.0  # of a dashboard; Ray's client alone waits for ever
STATES = {
    RayStatus.PENDING: JobState.WAITING,
    RayStatus.RUNNING: JobState.RUNNING,
    RayStatus.SUCCEEDED: JobState.SUCCEEDED,
    RayStatus.FAILED: JobState.FAILED,
    RayStatus.STOPPED: JobState.STOPPED,
}


class RayJobs(JobSubmissionClient):
    """The jobs of one dashboard."""

    def __init__(self, address: str, headers: Mapping[str, str] | None = None):
        """Connects, and sends the token it finds, if the cluster wants one; Ray's own sends one only when told to.

        Args:
            address: of the dashboard.
            headers: sent with every call, in place of a token that is found.

        Raises:
            Unreachable: no dashboard answers there.
            ClusterError: it wants another token, or one at all.
        """
        self._own_address = address.rstrip("/")
        for logger in ("ray", JobSubmissionClient.__module__):  # they tell how to do without a token, and of streams
            logging.getLogger(logger).setLevel(logging.ERROR)
        if headers is None and self._wants_token():
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        try:
            super().__init__(self._own_address, headers=dict(headers or {}))
        except ConnectionError as error:
            raise self._unreachable(error) from error

    def _wants_token(self) -> bool:
        try:
            answer = requests.get(f"{self._own_address}/api/authentication_mode", timeout=ANSWER_TIMEOUT_S)
            return bool(answer.json()["authentication_mode"] == "token")
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise self._unreachable(error) from error

    def _do_request(self, method: str, endpoint: str, **arguments: Any) -> requests.Response:
        """Every call of Ray's client goes through here.

        Raises:
            Unreachable: nobody answers, or the dashboard itself has failed.
            ClusterError: the token is missing, or another.
        """
        try:
            answer = super()._do_request(method, endpoint, timeout=ANSWER_TIMEOUT_S, **arguments)
        except requests.RequestException as error:
            raise self._unreachable(error) from error
        except AuthenticationError as error:
            raise ClusterError(
                f"{self._own_address}: this Ray cluster wants another token than this process has, or one at all; set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what 'ray get-auth-token' prints on its head node."
            ) from error
        if answer.status_code >= 500:
            raise Unreachable(f"{self._own_address}: answers {answer.status_code}: {answer.text.strip()[-500:]}")
        return answer

    def state_of(self, job: str) -> JobStatus:
        """How a job stands; MISSING where there is none."""
        answer = self._do_request("GET", f"/api/jobs/{job}")
        if answer.status_code == 404:
            return JobStatus(state=JobState.MISSING, words=f"{self._own_address} has no job {job}")
        if answer.status_code != 200:
            raise ClusterError(f"{self._own_address}: answers {answer.status_code}: {answer.text.strip()[-500:]}")
        details = answer.json()
        status = RayStatus(details["status"])
        state = STATES[status]
        words = [f"job {status.value}", details.get("error_type") or "", details.get("message") or ""]
        has_log = state is not JobState.WAITING
        return JobStatus(state=state, words="; ".join(filter(None, words)), attempt=job if has_log else "")

    async def log_of(self, job: str) -> AsyncGenerator[str, None]:
        """The job's output from its beginning, as it comes.

        Raises:
            Unreachable: the connection broke, or there is none.
        """
        try:
            async for text in self.tail_job_logs(job):
                yield text
        except (aiohttp.ClientError, OSError, RuntimeError) as error:  # RuntimeError: Ray's, of a broken connection
            raise self._unreachable(error) from error

    def _unreachable(self, error: BaseException) -> Unreachable:
        why = first_line(error)
        return Unreachable(
            f"{self._own_address}: no Ray dashboard answers there ({why}); see what 'ray start' printed."
        )
