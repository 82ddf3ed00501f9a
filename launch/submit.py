"""Submits the command to a running Ray cluster as a job, follows its output, and ends with its success or failure.

    python launch/submit.py [--python=PATH] http://HEAD:8265 +cluster=8xA100 runs_dir=/shared/runs name=billing ...

What follows the dashboard's address are the arguments of `python -m sdft_ray.launch`. This checkout travels along, so
the nodes need the packages it uses, but not the package itself. --python is the interpreter that has them there; else
the `python` of the environment in which Ray was started. Ctrl-C stops the job.
"""

import asyncio
import json
import logging
import re
import shlex
import sys
import time
import urllib.request
from pathlib import Path

from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

ROOT = Path(__file__).resolve().parents[1]
PYTHON_OPTION = "--python="
LACKS_PACKAGES = re.compile(
    r"No module named '?(sdft_ray|hydra|omegaconf|ray|torch|transformers|vllm|deepspeed|yaml|rich)\b"
)
KEPT_CHARACTERS = 10_000
NO_AGENT, AGENT_TIMEOUT_S = "No available agent to submit job", 60.0
NOT_UPLOADED = [".venv", ".git", "runs", "tests", "docs", ".*_cache"]


def main(arguments: list[str]) -> int:
    """Returns the exit code of the command line."""
    python = "python"
    if arguments and arguments[0].startswith(PYTHON_OPTION):
        python, arguments = arguments[0].removeprefix(PYTHON_OPTION), arguments[1:]
    if not arguments or not any(argument.startswith("runs_dir=/") for argument in arguments):
        print(
            f"usage: submit.py [{PYTHON_OPTION}PATH] http://HEAD:8265 +cluster=NAME "
            "runs_dir=/A/FOLDER/ALL/NODES/SEE ...",
            file=sys.stderr,
        )
        return 2
    address, *overrides = arguments
    logging.getLogger("ray").setLevel(logging.ERROR)  # it would tell how to do without a token
    try:
        client = _connect(address.rstrip("/"))
    except (OSError, ValueError) as error:
        print(
            f"error: {address}: no Ray dashboard answers there ({error}); see what 'ray start' printed", file=sys.stderr
        )
        return 1
    except AuthenticationError:
        print(
            f"error: {address}: this Ray cluster wants another token than this process has, or one at all; set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what 'ray get-auth-token' prints on its head node",
            file=sys.stderr,
        )
        return 1
    job = _submit(client, python, overrides)
    print(f"submitted {job}", flush=True)
    try:
        output = asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        client.stop_job(job)
        print(f"stopped {job}", flush=True)
        return 130
    # The job's own output has ended, but following it tells nothing of how: only the status does.
    status = client.get_job_status(job)
    print(f"{job}: {status}", flush=True)
    if status != JobStatus.SUCCEEDED and LACKS_PACKAGES.search(output):
        print(
            f"error: {python!r} on the head node has no such package; give {PYTHON_OPTION}PATH, the interpreter of the "
            "environment that has them on every node, or start Ray in that environment, activated",
            file=sys.stderr,
        )
    return 0 if status == JobStatus.SUCCEEDED else 1


def _connect(address: str) -> JobSubmissionClient:
    """A client that sends the token it finds, if the cluster wants one; Ray's own sends one only when told to."""
    with urllib.request.urlopen(f"{address}/api/authentication_mode", timeout=30) as answer:
        mode = json.load(answer)["authentication_mode"]
    if mode == "token":
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    return JobSubmissionClient(address)


def _submit(client: JobSubmissionClient, python: str, overrides: list[str]) -> str:
    """The id of the job. A head that has just started has no agent for jobs yet: it is asked again, for a minute."""
    deadline = time.monotonic() + AGENT_TIMEOUT_S
    while True:
        try:
            return client.submit_job(
                entrypoint=shlex.join([python, "-m", "sdft_ray.launch", *overrides]),
                runtime_env={"working_dir": str(ROOT), "excludes": NOT_UPLOADED},
            )
        except RuntimeError as error:  # Ray's client has no other for what a server answers
            if NO_AGENT not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(1)


async def _follow(client: JobSubmissionClient, job: str) -> str:
    """Prints the job's output, and returns its end once the job has ended."""
    output = ""
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)
        output = (output + text)[-KEPT_CHARACTERS:]
    while not client.get_job_status(job).is_terminal():
        await asyncio.sleep(1)
    return output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
