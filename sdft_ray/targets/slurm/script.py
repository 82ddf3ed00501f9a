"""The script that sbatch is handed: a Ray head, its workers, the driver, and what a signal does. A pure function."""

import shlex
from pathlib import Path

from sdft_ray.config import RunConfig
from sdft_ray.targets.identity import RUN_FILE
from sdft_ray.targets.jobs import job_folder, job_name
from sdft_ray.targets.run_file import OPTION

ID_FILE, LOG_FILE, CODE_FILE, TOKEN_FILE, SCRIPT_FILE = "id", "output.log", "exit_code", "token", "job.sh"
STOPPING_FILE = "stopping"  # there once a user has asked for the end
TERMINATED = 143  # the driver has heard SIGTERM

BODY = """\
folder={folder}
python={python}
image=({image})  # what a command is run in; nothing without Apptainer
rm -f "$folder/{code_file}"  # of this job, before it was queued again
end() {{  # the job, with an exit code
    {ending}
    echo $1 > "$folder/{code_file}"
    exit $1
}}
trap 'kill -KILL $waiting 2>/dev/null; end {terminated}' TERM  # as long as there is no driver to be told
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/{token_file}"

# Jobs that share a node, and a Ray that is not theirs, have other ports.
offset=$((SLURM_JOB_ID % 1000))
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
# As Slurm itself reaches the node: its name alone need not resolve.
head=$(scontrol show node --oneliner "${{nodes[0]}}" | grep --only-matching 'NodeAddr=[^ ]*')
export RAY_ADDRESS="${{head#NodeAddr=}}:$(({port} + offset))"
common=(--block --disable-usage-stats --num-cpus={cpus} --num-gpus={gpus}
    --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0)

{setup}
on_nodes() {{  # the nodes, then what srun runs on each of them
    srun --overlap --nodes="$1" --ntasks="$1" --nodelist="$2" --cpus-per-task={cpus} "${{@:3}}" &
}}
wait_for_nodes() {{  # how many are to have joined; bash hears no signal while a command runs in its foreground
    "${{image[@]}}" "$python" -m sdft_ray.targets.nodes $1 &
    waiting=$!
    wait $waiting || end $?
}}
# RAY_ADDRESS is the driver's: with it a head would join itself.
on_nodes 1 "${{nodes[0]}}" env --unset=RAY_ADDRESS "${{image[@]}}" "$python" -m ray.scripts.scripts start --head \\
    --port="${{RAY_ADDRESS##*:}}" --dashboard-port=$((8265 + offset)) --ray-client-server-port=$((20001 + offset)) \\
    --temp-dir="/tmp/ray-$SLURM_JOB_ID" "${{common[@]}}"
wait_for_nodes 1
if (( ${{#nodes[@]}} > 1 )); then
    others=$(IFS=,; echo "${{nodes[*]:1}}")
    on_nodes $((${{#nodes[@]}} - 1)) "$others" "${{image[@]}}" "$python" -m ray.scripts.scripts start \\
        --address="$RAY_ADDRESS" "${{common[@]}}"
fi
wait_for_nodes ${{#nodes[@]}}

"${{image[@]}}" "$python" -m sdft_ray.launch {option}"$folder/{run_file}" &
driver=$!
# The driver alone is told: it ends behind its step, with a checkpoint, while Ray is still there.
trap 'kill -TERM $driver 2>/dev/null' TERM
code={terminated}
while kill -0 $driver 2>/dev/null; do wait $driver; code=$?; done
end $code
"""
REQUEUE = """\
if (( $1 == {terminated} )) && [[ ! -e "$folder/{stopping_file}" ]]; then
        scontrol requeue "$SLURM_JOB_ID" && sleep 60  # which ends this script; the job goes on from its checkpoint
    fi"""
NO_REQUEUE = ": what a signal ended is not queued again"


def batch_script(cfg: RunConfig, name: str) -> str:
    """The script of a job.

    Args:
        cfg: the checked settings of its first run.
        name: that of the runs.

    Raises:
        ConfigError: the run has no name, or one that no job can have.
    """
    slurm, cluster = cfg.target.slurm, cfg.cluster
    folder = job_folder(cfg.runs_dir, name)
    cpus = cluster.cpus_of_node("target.slurm.cpus_per_node", slurm.cpus_per_node)
    gpus = cluster.gpus_per_node if cluster.num_gpus else 0
    image = ["apptainer", "exec", *slurm.apptainer_options, slurm.apptainer] if slurm.apptainer else []
    body = BODY.format(
        folder=shlex.quote(str(folder)),
        python=shlex.quote(cfg.target.python or "python"),
        image=shlex.join(image),
        token_file=TOKEN_FILE,
        port=slurm.port,
        cpus=cpus,
        gpus=gpus,
        setup="\n".join(slurm.setup),
        option=OPTION,
        run_file=RUN_FILE,
        code_file=CODE_FILE,
        terminated=TERMINATED,
        ending=REQUEUE.format(terminated=TERMINATED, stopping_file=STOPPING_FILE) if slurm.requeue else NO_REQUEUE,
    )
    return "\n".join(["#!/bin/bash", *_options(cfg, job_name(name), folder, cpus, gpus), "", body])


def _options(cfg: RunConfig, name: str, folder: Path, cpus: int, gpus: int) -> list[str]:
    """What sbatch reads."""
    slurm = cfg.target.slurm
    given = {
        "job-name": name,
        "nodes": cfg.cluster.num_nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cpus,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "time": slurm.time_limit,
        "mem": f"{slurm.memory_gib_per_node}G" if slurm.memory_gib_per_node else "",
        "output": folder / LOG_FILE,
        "open-mode": "append",  # a job that is begun anew goes on in the same log
        "signal": f"B:TERM@{slurm.grace_s}",
    }
    if gpus:
        given |= {"gpus-per-node": gpus} if slurm.gpu_option == "gpus-per-node" else {"gres": f"gpu:{gpus}"}
    options = [f"--{key}={value}" for key, value in given.items() if value != ""]
    options.append("--requeue" if slurm.requeue else "--no-requeue")
    return [f"#SBATCH {option}" for option in [*options, *slurm.options]]
