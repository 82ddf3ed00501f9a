"""The user's own `ssh`: it brings keys, agents, jump hosts and aliases, and adds no package."""

import asyncio
import codecs
import re
import shlex
import subprocess
from collections.abc import AsyncGenerator

from sdft_ray.errors import ClusterError
from sdft_ray.targets.jobs import Unreachable
from sdft_ray.targets.ssh.hosts import Host

TIMEOUT_S = 120.0  # of a whole command: a login may start slowly
CONNECT_S = 10  # until a host that is away is given up
FAILED = 255  # ssh's own code; every other is the command's
# A question would wait for ever, and a connection that is dead has to be noticed.
OPTIONS = (
    "-T",
    *("-o", "BatchMode=yes"),
    *("-o", f"ConnectTimeout={CONNECT_S}"),
    *("-o", "ServerAliveInterval=15"),
    *("-o", "ServerAliveCountMax=3"),
)
REFUSED = re.compile(r"permission denied|too many authentication failures|no supported authentication", re.IGNORECASE)
# A name server that is away says "temporary failure"; it is asked again.
UNKNOWN = re.compile(r"host key verification failed|no .* host key is known|name or service not known", re.IGNORECASE)


def on_host(host: Host, script: str, *arguments: str, given: bytes = b"", timeout_s: float = TIMEOUT_S) -> str:
    """What a script of bash prints on a host.

    Args:
        host: the machine.
        script: of bash, whose parameters are the arguments.
        arguments: any text.
        given: its standard input.
        timeout_s: after which the command is given up here; what it does there goes on.

    Raises:
        Unreachable: the host does not answer.
        ClusterError: there is no ssh here, the host lets nobody in, or the script has failed.
    """
    try:
        done = subprocess.run(_command(host, script, *arguments), input=given, capture_output=True, timeout=timeout_s)
    except FileNotFoundError as error:
        raise _no_ssh() from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"ssh {host}: no answer in {timeout_s:.0f} s.") from error
    if done.returncode == 0:
        return done.stdout.decode(errors="replace")
    raise _error(host, done.returncode, done.stderr.decode(errors="replace"))


async def stream(host: Host, script: str, *arguments: str) -> AsyncGenerator[str, None]:
    """What a script of bash prints on a host, as it comes.

    Raises:
        Unreachable: the host does not answer, or the connection breaks.
        ClusterError: as `on_host`.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(host, script, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise _no_ssh() from error
    assert process.stdout is not None and process.stderr is not None
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    try:
        while piece := await process.stdout.read(2**16):
            yield decoder.decode(piece)
        said = (await process.stderr.read()).decode(errors="replace")
        if code := await process.wait():
            raise _error(host, code, said)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _command(host: Host, script: str, *arguments: str) -> list[str]:
    # The login shell of a host need not be bash; one word in quotation marks is the same to all of them.
    there = shlex.join(["bash", "-c", script, "bash", *arguments])
    return ["ssh", *OPTIONS, *(["-p", host.port] if host.port else []), "--", host.name, there]


def _error(host: Host, code: int, said: str) -> ClusterError:
    words = " ".join(said.split()) or f"exit code {code}"
    port = f"-p {host.port} " if host.port else ""
    if code != FAILED:
        return ClusterError(f"{host}: {words}")
    call = f"'ssh {port}{host.name}'"
    if REFUSED.search(words):
        key = f"{call} has to work without a question: give it a key (ssh-copy-id), or start an agent"
        return ClusterError(f"{host}: lets this user not in ({words}); {key}.")
    if UNKNOWN.search(words):
        name = f"call {call} once, and mend the hosts file or ~/.ssh/config if it fails"
        return ClusterError(f"{host}: is not known to ssh ({words}); {name}.")
    return Unreachable(f"ssh {host}: {words}")


def _no_ssh() -> ClusterError:
    return ClusterError("ssh is not installed, or not on the PATH; target=ssh works through it.")
