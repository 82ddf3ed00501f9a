"""Whether the hosts of a job let this user in, and have what its script needs; starts nothing that stays."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from sdft_ray.config import RunConfig
from sdft_ray.errors import ClusterError
from sdft_ray.targets.jobs import name_of
from sdft_ray.targets.run_file import Run
from sdft_ray.targets.ssh.hosts import Host, hosts_for
from sdft_ray.targets.ssh.script import header
from sdft_ray.targets.ssh.shell import on_host

# Behind the header of the job's script. Parameters: the folder of all runs, and a file in it, which every host makes.
PROBE = """
for program in setsid timeout tail tar base64 grep; do
    command -v $program > /dev/null || echo "lacks=$program"
done
setup > /dev/null
versions="from importlib.metadata import version; print(version('sdft_ray'), version('ray'))"
echo "versions=$("$python" -c "$versions" 2>&1 | tail --lines=1)"
echo "gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep --count '^GPU')"
getent ahosts "${addresses[0]}" > /dev/null || echo "unknown=${addresses[0]}"
[[ ! -e $2 ]] || echo "shared=yes"  # the host before has made it
mkdir --parents "$1" && touch "$2" || echo "unwritable=$1"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What was seen of the hosts; a sentence each."""

    reached: tuple[str, ...]
    not_checked: tuple[str, ...]
    findings: tuple[str, ...]  # for which the job would not run


def check_hosts(runs: Sequence[Run]) -> Looked:
    """Asks every host of a job; makes the folder of all runs where it is not there.

    Raises:
        ConfigError: the hosts file is none, or too small.
    """
    (_, cfg), *_ = runs[0]
    hosts = hosts_for(cfg.cluster, cfg.target.ssh.hosts)
    probe = header(cfg, name_of(runs)) + PROBE
    mark = f"{cfg.runs_dir}/.check-{secrets.token_hex(4)}"
    found, findings = dict[Host, dict[str, str]](), list[str]()
    for host in hosts:
        try:
            said = on_host(host, probe, cfg.runs_dir, mark)
        except ClusterError as error:
            findings.append(str(error))
        else:
            found[host] = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    for host in found:
        on_host(host, 'rm --force "$1"', mark)
    first = next(iter(found.values()), {})
    for host, of_host in found.items():
        findings += [f"{host}: {problem}" for problem in _problems(of_host, first, _num_gpus(host, cfg))]
    not_checked = ["whether the hosts reach one another's ports"] if len(hosts) > 1 else []
    if any("shared" not in of_host for of_host in list(found.values())[1:]):
        not_checked.append(f"{cfg.runs_dir} is not one folder on all hosts, as learner ranks on several hosts need it")
    reached = [f"{host}: sdft_ray and Ray {of['versions']}; {of['gpus']} GPUs" for host, of in found.items()]
    return Looked(reached=tuple(reached), not_checked=tuple(not_checked), findings=tuple(findings))


def _num_gpus(host: Host, cfg: RunConfig) -> int:
    """GPUs that the job's script gives Ray on a host."""
    of_node = cfg.cluster.gpus_per_node if cfg.cluster.num_gpus else 0
    return of_node if host.gpus is None else host.gpus


def _problems(found: Mapping[str, str], first: Mapping[str, str], num_gpus: int) -> Iterator[str]:
    """What of a host would keep the job from running there; `first` is what was found on the first host."""
    versions = found["versions"].split()
    if len(versions) != 2:
        yield f"{found['versions']}; set target.python, or activate the environment in target.ssh.setup"
    elif versions[0] != version("sdft_ray"):
        yield f"has sdft_ray {versions[0]}, and this machine {version('sdft_ray')}"
    elif found["versions"] != first["versions"]:
        yield f"has Ray {versions[1]}, and the first host others ({first['versions']})"
    if int(found["gpus"]) < num_gpus:
        yield f"has {found['gpus']} GPUs, and is to give Ray {num_gpus}"
    if "lacks" in found:
        yield f"has no program {found['lacks']}"
    if "unknown" in found:
        yield f"does not know the name {found['unknown']}; give the first host address=IP in the hosts file"
    if "unwritable" in found:
        yield f"cannot write to {found['unwritable']}; choose another runs_dir"
