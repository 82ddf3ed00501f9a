"""target=ssh: a job on hosts from its submission to its end. What is done on a host, its script does."""

import base64
import io
import json
import secrets
import tarfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import PurePosixPath

from sdft_ray.config import RunConfig, SshConfig
from sdft_ray.errors import ClusterError, ConfigError
from sdft_ray.targets.elsewhere import for_elsewhere, is_absolute
from sdft_ray.targets.identity import RUN_FILE, TARGET_FILE, check_same, job_files
from sdft_ray.targets.jobs import JobState, JobStatus, Unreachable, job_folder
from sdft_ray.targets.run_file import Run
from sdft_ray.targets.ssh.hosts import Host, hosts_for, read_hosts
from sdft_ray.targets.ssh.script import host_script
from sdft_ray.targets.ssh.shell import TIMEOUT_S, on_host, stream

SCRIPT_FILE, TOKEN_FILE, ID_FILE, HOSTS_FILE = "job.sh", "token", "id", "hosts.json"
FILES = (SCRIPT_FILE, TOKEN_FILE, ID_FILE, HOSTS_FILE, RUN_FILE, TARGET_FILE)
SIGNALLED = (130, 143)  # the driver was told to end, and has
HEAD = 0  # the index of the first host
SILENCE_S = 240.0  # that the end of a job may take on a host beside its grace
REMEDY = "choose another name, or end that job with mode=stop"
# Each is bash, with the job's folder as its first parameter.
READ = '[[ -d $1 ]] || exit 0; cd "$1" && tar --create "${@:2}" | base64 --wrap=0'
# All files or none: a folder that is there belongs to a job.
WRITE = """
set -e
parent=$(dirname "$1") && mkdir --parents "$parent" && umask 077
scratch=$(mktemp --directory "$parent/.job.XXXXXX") && tar --extract --touch --directory="$scratch"
mv --no-target-directory "$scratch" "$1" || rm --recursive --force "$scratch"
[[ -d $1 ]]
"""
CALL = '[[ ! -e $1/job.sh ]] || bash "$1/job.sh" "${@:2}"'
# Of an earlier job of the name, which this host has not been told the end of.
CLEAR = '[[ ! -d $1 || $(<"$1/id") == "$2" ]] || { bash "$1/job.sh" stop "$3" 0 && bash "$1/job.sh" leave; }'


class SshJob:
    """The job of one name."""

    def __init__(self, name: str, runs_dir: str, ssh: SshConfig):
        """Asks nothing yet.

        Args:
            name: of the job, as `jobs.job_name` writes it.
            runs_dir: the folder of all runs on the hosts.
            ssh: whose first host has the job's folder.

        Raises:
            ConfigError: the hosts file is none, or `runs_dir` no whole path.
        """
        if not PurePosixPath(runs_dir).is_absolute():
            problem = "is a path from this command's folder, which hosts do not have"
            raise ConfigError("runs_dir", runs_dir, problem, "set it to a whole path, such as /shared/runs")
        self._name = name
        self._folder = str(job_folder(runs_dir, name))
        self._grace_s = ssh.grace_s
        self._head = read_hosts(ssh.hosts)[HEAD]

    @property
    def place(self) -> str:
        """See `JobClient`."""
        return f"job {self._folder} on {self._head}"

    def submit(self, runs: Sequence[Run]) -> bool:
        """See `JobClient`. A host that an earlier submitter has not reached is started now."""
        (_, cfg), *_ = runs[0]
        hosts = hosts_for(cfg.cluster, cfg.target.ssh.hosts)
        mine = job_files(_on_hosts(runs, hosts))
        there = self._read(self._head)
        if not there:
            own = {
                **mine,
                SCRIPT_FILE: host_script(cfg, self._name),
                TOKEN_FILE: secrets.token_hex(32),
                ID_FILE: secrets.token_hex(4),
                HOSTS_FILE: json.dumps([asdict(host) for host in hosts]),
            }
            on_host(self._head, WRITE, self._folder, given=_packed(own))
            there = self._read(self._head)  # perhaps that of another submitter, a moment ago
        check_same(self._name, mine, there, REMEDY)
        is_new = self._call(self._head, "status", HEAD).split() == ["new"]
        if is_new or self.status().state is JobState.WAITING:
            for index, host in enumerate(hosts[1:], 1):  # a host that is away is noticed before anything is started
                on_host(host, CLEAR, self._folder, there[ID_FILE], str(index))
                on_host(host, WRITE, self._folder, given=_packed(there))
            for index, host in enumerate(hosts):
                self._call(host, "start", index)
        return is_new

    def status(self) -> JobStatus:
        """See `JobClient`."""
        said = self._call(self._head, "status", HEAD).split()
        if not said:
            return JobStatus(state=JobState.MISSING, words=f"{self._head} has no {self._folder}")
        word, *rest = said
        if word == "new":
            return JobStatus(state=JobState.WAITING, words="not started; mode=submit starts it")
        if word == "running":
            state = JobState.RUNNING if "driver" in rest else JobState.WAITING
            words = "driver runs" if "driver" in rest else "; ".join(["hosts join", *self._troubles()])
        elif word == "lost":
            state, words = JobState.LOST, "its script has ended without a word: killed, or the host was restarted"
        else:
            code = int(rest[0])
            state, words = _ended(code, has_run="driver" in rest), f"exit code {code}"
        if state.has_ended and state is not JobState.SUCCEEDED and "stopping" in rest:
            state = JobState.STOPPED
        return JobStatus(state=state, words=words, attempt=self._folder)

    def log(self, attempt: str) -> AsyncGenerator[str, None]:
        """See `JobClient`."""
        return stream(self._head, CALL, attempt, "log", str(HEAD))

    def stop(self) -> None:
        """See `JobClient`. The driver writes a checkpoint first; the job's folder stays beside, named by its id.

        Raises:
            ClusterError: a host was not reached; the name is free all the same.
        """
        if not self._hosts:
            return
        # The driver needs the other hosts until it has ended.
        self._call(self._head, "stop", HEAD, str(self._grace_s), timeout_s=self._grace_s + SILENCE_S)
        unreached = []
        for index, host in enumerate(self._hosts[1:], 1):
            try:
                self._call(host, "stop", index, "0", timeout_s=SILENCE_S)
                self._call(host, "leave", index)
            except Unreachable as error:
                unreached.append(str(error))
        self._call(self._head, "leave", HEAD)
        if unreached:
            problem = "is stopped and its name is free, but not all of its hosts were reached"
            remedy = "there Ray ends by itself a minute behind the first host's"
            raise ClusterError(f"{self.place}: {problem} ({'; '.join(unreached)}); {remedy}.")

    def _call(self, host: Host, verb: str, index: int, *arguments: str, timeout_s: float = TIMEOUT_S) -> str:
        """What the job's script says; "" where the host has no such job."""
        return on_host(host, CALL, self._folder, verb, str(index), *arguments, timeout_s=timeout_s)

    def _read(self, host: Host) -> dict[str, str]:
        """The files of the job that is there; none where there is no job."""
        packed = on_host(host, READ, self._folder, *FILES)
        if not packed:
            return {}
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed))) as archive:
            found = {member.name: archive.extractfile(member) for member in archive.getmembers()}
            return {name: file.read().decode() for name, file in found.items() if file is not None}

    @cached_property
    def _hosts(self) -> list[Host]:
        """Those that the job was started on, whatever the hosts file says by now."""
        there = self._read(self._head)
        return [Host(**plain) for plain in json.loads(there[HOSTS_FILE])] if there else []

    def _troubles(self) -> list[str]:
        """Which hosts will not join any more."""
        found = []
        for index, host in enumerate(self._hosts[1:], 1):
            try:
                said = self._call(host, "status", index).split() or ["new"]
            except Unreachable as error:
                found.append(str(error))
                continue
            if said[0] != "running":
                found.append(f"{host}: {' '.join(said)}; see {self._folder}/host-{index}.log there")
        return found


def _on_hosts(runs: Sequence[Run], hosts: Sequence[Host]) -> list[Run]:
    """The runs as the driver reads them on the first host.

    Raises:
        ConfigError: a setting names a file of this machine.
    """
    names = ", ".join(map(str, hosts))  # the file may change under a running job

    def there(cfg: RunConfig) -> RunConfig:
        own = replace(cfg, target=replace(cfg.target, ssh=replace(cfg.target.ssh, hosts=names)))
        return for_elsewhere(own, cfg.runs_dir, "copy it to the hosts, and name its whole path", sees=is_absolute)

    return [[(stage, there(cfg)) for stage, cfg in run] for run in runs]


def _packed(files: Mapping[str, str]) -> bytes:
    """An archive of files that their owner alone can read: one of them is the token."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as writer:
        for name, text in files.items():
            member, content = tarfile.TarInfo(name), text.encode()
            member.size, member.mode = len(content), 0o600
            writer.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def _ended(code: int, *, has_run: bool) -> JobState:
    """What an exit code says of a job whose driver was started, or was not."""
    if code == 0:
        return JobState.SUCCEEDED
    if code in SIGNALLED:
        return JobState.STOPPED
    return JobState.FAILED if has_run else JobState.NEVER_RAN
