"""The script that every host of a job is handed: a Ray node, on the first host the driver, and the job's end."""

import shlex

from sdft_ray.config import RunConfig
from sdft_ray.targets.jobs import job_folder
from sdft_ray.targets.ssh.hosts import hosts_for

HEADER = """\
#!/bin/bash
folder={folder}
python={python}
addresses=({addresses})  # by which the hosts reach one another; the driver runs on the first
listen=({listen})  # at which a host's Ray node listens; "" is Ray's own choice
gpus=({gpus})  # of a host
cpus={cpus}
first_port={port}
grace_s={grace_s}
setup() {{  # before Ray starts
    :{setup}
}}
"""
# `job.sh VERB INDEX` on the host of that index. Hosts may share the folder, so each has files of its own in it.
BODY = """\
verb=$1 index=${2:-0}
me="$folder/host-$index"
id=$(<"$folder/id")
temp="/tmp/sdft-$id-$index"
mark="SDFT_RAY_JOB=$id-$index"  # in the environment of all that the job starts on this host

alive() {  # whether the process of a file runs: after a restart of the host its number may be another's
    [[ -s $1 ]] && { tr '\\0' ' ' < "/proc/$(<"$1")/cmdline" | grep --quiet --fixed-strings "$folder/"; } 2>/dev/null
}
alive_after() {  # seconds, unless the process of a file has ended before
    for ((fifth = 0; fifth < 5 * $2; fifth++)); do alive "$1" || return 1; sleep 0.2; done
}
marked() {
    grep --files-with-matches --null-data --line-regexp --fixed-strings "$mark" /proc/[0-9]*/environ 2>/dev/null |
        cut --delimiter=/ --fields=3
}
clean_up() {  # what Ray has not ended itself; its logs are kept
    # A node whose head is gone would ask it for a minute whether it may end.
    for ((fifth = 0; fifth < (index > 0 ? 25 : 150); fifth++)); do [[ -n $(marked) ]] || break; sleep 0.2; done
    kill -KILL $(marked) 2>/dev/null
    [[ -d $temp/session_latest/logs ]] && cp --recursive "$temp/session_latest/logs" "$me.ray-logs"
    rm --recursive --force "$temp"
}
end() {  # this host's part of the job, with an exit code
    trap '' TERM
    kill -TERM $(jobs -p) 2>/dev/null
    clean_up
    echo "$1" > "$me.code"
    exit "$1"
}
run() {
    (set -o noclobber; echo $$ > "$me.pid") 2>/dev/null || exit 0  # it runs, or has run
    exec >> "$me.log" 2>&1
    trap 'end 143' TERM  # as long as there is no driver to be told
    setup
    # Jobs that share a host, and a Ray that is not theirs, have other ports.
    offset=$((16#$id % 1000))
    export RAY_ADDRESS="${addresses[0]}:$((first_port + offset))"
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token"
    node=(-m ray.scripts.scripts start --block --disable-usage-stats --temp-dir="$temp" --num-cpus="$cpus"
        --num-gpus="${gpus[index]}" --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0)
    [[ -z ${listen[index]} ]] || node+=(--node-ip-address="${listen[index]}")
    if (( index > 0 )); then
        join
    else
        lead
    fi
}
join() {  # the Ray of the first host, and end with it
    until timeout 5 bash -c ": < '/dev/tcp/${RAY_ADDRESS/://}'"; do
        (( SECONDS < 600 )) || { echo "error: Ray at $RAY_ADDRESS is not reached from this host"; end 1; }
        sleep 1
    done 2>/dev/null
    env "$mark" "$python" "${node[@]}" --address="$RAY_ADDRESS" > "$me.ray.log" 2>&1 &
    wait $!
    end $?
}
lead() {
    # RAY_ADDRESS is the driver's: with it a head would join itself.
    env --unset=RAY_ADDRESS "$mark" "$python" "${node[@]}" --head --port="${RAY_ADDRESS##*:}" \\
        --dashboard-port=$((8265 + offset)) --ray-client-server-port=$((20001 + offset)) \\
        > "$me.ray.log" 2>&1 &
    ray=$!
    env "$mark" "$python" -m sdft_ray.targets.nodes "${#addresses[@]}" &
    # Until the nodes have joined, or Ray has ended.
    wait -n && kill -0 $ray 2>/dev/null || { tail --lines=20 "$me.ray.log"; end 1; }
    # The driver alone is told: it ends behind its step, with a checkpoint, while Ray is still there.
    trap 'kill -TERM $driver 2>/dev/null' TERM
    env "$mark" "$python" -m sdft_ray.launch --run-file="$folder/run.yaml" &
    driver=$!
    echo $driver > "$me.driver"
    code=143
    while kill -0 $driver 2>/dev/null; do wait $driver; code=$?; done
    end $code
}
start() {
    setsid bash "$folder/job.sh" run "$index" < /dev/null > /dev/null 2>&1 &
    for ((tenth = 0; tenth < 100; tenth++)); do [[ ! -e $me.log ]] || return 0; sleep 0.1; done
    echo "$folder/job.sh has not begun in 10 s" >&2
    return 1
}
status() {
    if alive "$me.pid"; then
        echo running
    elif [[ -s $me.code ]]; then
        echo "ended $(<"$me.code")"
    elif [[ -s $me.pid ]]; then
        echo lost
    else
        echo new
    fi
    [[ ! -s $me.driver ]] || echo driver
    [[ ! -e $folder/stopping ]] || echo stopping
}
stop() {  # with a number of seconds in which the driver may write its checkpoint
    touch "$folder/stopping"
    told="$me.pid"
    alive "$told" || told="$me.driver"  # whose script was killed
    if alive "$told"; then
        kill -TERM "$(<"$told")"
        # A driver that does not hear is killed; the script then ends Ray.
        alive_after "$told" $((${1:-$grace_s} + 1)) && alive "$me.driver" && kill -KILL "$(<"$me.driver")"
        alive_after "$told" 60 && kill -KILL "$(<"$told")"
    fi
    left=$(marked)  # by a script that was killed
    [[ -z $left ]] || { kill -TERM $left; clean_up; }
}
case $verb in
run | start | status) $verb ;;
stop) stop "$3" ;;
log) tail --bytes=+1 --follow --pid="$(<"$me.pid")" "$me.log" ;;
leave) mv --no-target-directory "$folder" "$folder-$id" ;;
esac
"""


def header(cfg: RunConfig, name: str) -> str:
    """The part of the script that the settings make.

    Args:
        cfg: the checked settings of the job's first run.
        name: that of the runs.

    Raises:
        ConfigError: the hosts file is none, or too small; the run has no name, or one that no job can have.
    """
    ssh, cluster = cfg.target.ssh, cfg.cluster
    hosts = hosts_for(cluster, ssh.hosts)
    gpus = cluster.gpus_per_node if cluster.num_gpus else 0
    return HEADER.format(
        folder=shlex.quote(str(job_folder(cfg.runs_dir, name))),
        python=shlex.quote(cfg.target.python or "python"),
        addresses=shlex.join(host.address for host in hosts),
        listen=shlex.join(host.address if host.has_own_address else "" for host in hosts),
        gpus=shlex.join(str(gpus if host.gpus is None else host.gpus) for host in hosts),
        cpus=cluster.cpus_of_node("target.ssh.cpus_per_node", ssh.cpus_per_node),
        port=ssh.port,
        grace_s=ssh.grace_s,
        setup="".join(f"\n    {line}" for line in ssh.setup),
    )


def host_script(cfg: RunConfig, name: str) -> str:
    """The script of a job, the same for all its hosts; see `header`."""
    return f"{header(cfg, name)}\n{BODY}"
