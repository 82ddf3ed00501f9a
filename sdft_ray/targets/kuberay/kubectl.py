"""The user's own `kubectl`: it brings kubeconfig, contexts and every way of signing in, and adds no package."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from sdft_ray.errors import ClusterError, ConfigError
from sdft_ray.targets.jobs import Unreachable

REQUEST_TIMEOUT_S = 20  # of the API server
PROCESS_TIMEOUT_S = 60  # of a whole command: signing in may ask another server
FORWARD_TIMEOUT_S = 30
# What kubectl says where asking again may help; everything else is about the question.
PASSING = re.compile(
    r"unable to connect to the server|connection refused|connection to the server \S+ was refused|connection reset|"
    r"timed? ?out|timeout|no such host|unexpected eof|\beof\b|serviceunavailable|service unavailable|internalerror|"
    r"too many requests|etcdserver|the server is currently unable|server was unable to return a response|"
    r"no route to host|http2",
    re.IGNORECASE,
)
# Of kubectl's own log, a line each time it tries: with a URL in it that has `timeout`.
LOG_LINES = re.compile(r"^[IWEF]\d{4} .*\n?", re.MULTILINE)
NO_KUBERAY = re.compile(r"(for kind|resource type) \"(RayJob|rayjobs)")
NO_MONITORING = re.compile(r"(for kind|resource type) \"(PodMonitor|podmonitors)")
NOT_SIGNED_IN = re.compile(r"must be logged in|provide credentials|Unauthorized")
NO_RIGHT = re.compile(r"\(Forbidden\).* cannot \w+ resource")
NO_CLUSTER = "server localhost:8080 was refused"  # what kubectl tries where nothing names a server
NO_CONTEXT = re.compile(r"context .* does not exist|no context exists with the name")
NO_NAMESPACE = re.compile(r'namespaces ".*" not found')
FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")


class Kubectl:
    """Commands in one namespace of one context."""

    def __init__(self, namespace: str, context: str = ""):
        """Starts nothing yet; `context` "" is kubectl's current one."""
        self._namespace, self._context = namespace, context
        self._chosen = [f"--namespace={namespace}", *([f"--context={context}"] if context else [])]

    def get(self, kind: str, name: str = "", *, selector: str = "") -> dict[str, Any] | None:
        """An object by its name, or a list of those that a selector chooses; None where no object has the name."""
        which = [name] if name else [f"--selector={selector}"]
        found = self._run("get", kind, *which, "--ignore-not-found", "--output=json")
        return json.loads(found) if found.strip() else None

    def version(self) -> str:
        """What the API server says of itself, where one answers."""
        return self._run("get", "--raw=/version")

    def dry_run(self, text: str) -> None:
        """Has the API server judge an object of YAML as a new one; nothing is kept."""
        self._run("create", "--dry-run=server", "--filename=-", given=text)

    def apply(self, text: str) -> None:
        """Makes the objects of a YAML stream; those that are there as they are written stay."""
        self._run("apply", "--filename=-", given=text)

    def delete(self, kinds: Sequence[str], selector: str) -> None:
        """Deletes what the selector chooses, and waits until it is gone."""
        self._run("delete", ",".join(kinds), f"--selector={selector}", "--ignore-not-found", "--wait=true")

    @asynccontextmanager
    async def forwarded(self, pod: str, port: int) -> AsyncGenerator[int, None]:
        """A port of this machine that leads to one of a pod, as long as the block goes on.

        Raises:
            Unreachable: there is no way to the pod at the moment.
        """
        command = ["kubectl", *self._chosen, "port-forward", f"pod/{pod}", f":{port}", "--address=127.0.0.1"]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None and process.stderr is not None
        try:
            try:
                line = (await asyncio.wait_for(process.stdout.readline(), FORWARD_TIMEOUT_S)).decode()
            except TimeoutError as error:
                raise Unreachable(f"kubectl port-forward pod/{pod}: no answer in {FORWARD_TIMEOUT_S} s.") from error
            found = FORWARDING.search(line)
            if found is None:
                said = (await process.stderr.read()).decode().strip() if not line else line.strip()
                raise Unreachable(f"kubectl port-forward pod/{pod}: {said}")
            yield int(found[1])
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    def _run(self, *arguments: str, given: str | None = None) -> str:
        """What a command prints.

        Raises:
            Unreachable: the API server does not answer, or has failed itself.
            ConfigError: the context or the namespace is not there.
            ClusterError: there is no kubectl, or the API server refuses.
        """
        # A deletion waits for pods that write a checkpoint first.
        timeouts = [] if "delete" in arguments else [f"--request-timeout={REQUEST_TIMEOUT_S}s"]
        command = ["kubectl", *self._chosen, *timeouts, *arguments]
        shown = " ".join(["kubectl", *arguments[:3]])
        try:
            done = subprocess.run(
                command,
                input=given,
                capture_output=True,
                text=True,
                timeout=PROCESS_TIMEOUT_S if timeouts else None,
            )
        except FileNotFoundError as error:
            raise ClusterError(
                "kubectl is not installed, or not on the PATH; target=kuberay works through it."
            ) from error
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"{shown}: no answer in {PROCESS_TIMEOUT_S} s.") from error
        if done.returncode == 0:
            return done.stdout
        self._refuse(shown, LOG_LINES.sub("", done.stderr).strip() or done.stdout.strip(), done.returncode)

    def _refuse(self, shown: str, said: str, code: int) -> NoReturn:
        """Raises what a command has said, with what to do about it where that is known."""
        if NO_CONTEXT.search(said):
            problem = f"cannot be used; kubectl says: {said}"
            raise ConfigError(
                "target.kube_context", repr(self._context), problem, "choose one of 'kubectl config get-contexts'"
            )
        if NO_NAMESPACE.search(said):
            remedy = f"make it with 'kubectl create namespace {self._namespace}', or choose another"
            raise ConfigError("target.namespace", self._namespace, "is no namespace of that cluster", remedy)
        found = f"{shown}: {said}"
        if NO_KUBERAY.search(said):
            raise ClusterError(f"{found}; install KubeRay's operator, or choose another target.kube_context.")
        if NO_MONITORING.search(said):
            raise ClusterError(f"{found}; install Prometheus' operator, or leave target.monitoring_namespace out.")
        if NOT_SIGNED_IN.search(said):
            raise ClusterError(f"{found}; sign in anew, or choose another target.kube_context.")
        if NO_RIGHT.search(said):
            raise ClusterError(f"{found}; have somebody give you that right, or choose another target.namespace.")
        if NO_CLUSTER in said:
            raise ClusterError(f"{found}; set KUBECONFIG to a file that names a cluster.")
        if PASSING.search(said):
            raise Unreachable(found)
        raise ClusterError(f"{shown}: {said or f'exit code {code}'}")
