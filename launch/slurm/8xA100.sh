#!/bin/bash
# python -m sdft_ray.launch +cluster=8xA100 name=one-node model=qwen2.5-3b target.python=/shared/venv/bin/python target.slurm.time_limit=12:00:00 mode=render target=slurm runs_dir=/shared/runs data=jsonl data.source=/shared/rows.jsonl
#SBATCH --job-name=one-node
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=33
#SBATCH --time=12:00:00
#SBATCH --output=/shared/runs/.jobs/one-node/output.log
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --gpus-per-node=8
#SBATCH --requeue

folder=/shared/runs/.jobs/one-node
python=/shared/venv/bin/python
image=()  # what a command is run in; nothing without Apptainer
rm -f "$folder/exit_code"  # of this job, before it was queued again
end() {  # the job, with an exit code
    if (( $1 == 143 )) && [[ ! -e "$folder/stopping" ]]; then
        scontrol requeue "$SLURM_JOB_ID" && sleep 60  # which ends this script; the job goes on from its checkpoint
    fi
    echo $1 > "$folder/exit_code"
    exit $1
}
trap 'kill -KILL $waiting 2>/dev/null; end 143' TERM  # as long as there is no driver to be told
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token"

# Jobs that share a node, and a Ray that is not theirs, have other ports.
offset=$((SLURM_JOB_ID % 1000))
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
# As Slurm itself reaches the node: its name alone need not resolve.
head=$(scontrol show node --oneliner "${nodes[0]}" | grep --only-matching 'NodeAddr=[^ ]*')
export RAY_ADDRESS="${head#NodeAddr=}:$((6379 + offset))"
common=(--block --disable-usage-stats --num-cpus=33 --num-gpus=8
    --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0)


on_nodes() {  # the nodes, then what srun runs on each of them
    srun --overlap --nodes="$1" --ntasks="$1" --nodelist="$2" --cpus-per-task=33 "${@:3}" &
}
wait_for_nodes() {  # how many are to have joined; bash hears no signal while a command runs in its foreground
    "${image[@]}" "$python" -m sdft_ray.targets.nodes $1 &
    waiting=$!
    wait $waiting || end $?
}
# RAY_ADDRESS is the driver's: with it a head would join itself.
on_nodes 1 "${nodes[0]}" env --unset=RAY_ADDRESS "${image[@]}" "$python" -m ray.scripts.scripts start --head \
    --port="${RAY_ADDRESS##*:}" --dashboard-port=$((8265 + offset)) --ray-client-server-port=$((20001 + offset)) \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID" "${common[@]}"
wait_for_nodes 1
if (( ${#nodes[@]} > 1 )); then
    others=$(IFS=,; echo "${nodes[*]:1}")
    on_nodes $((${#nodes[@]} - 1)) "$others" "${image[@]}" "$python" -m ray.scripts.scripts start \
        --address="$RAY_ADDRESS" "${common[@]}"
fi
wait_for_nodes ${#nodes[@]}

"${image[@]}" "$python" -m sdft_ray.launch --run-file="$folder/run.yaml" &
driver=$!
# The driver alone is told: it ends behind its step, with a checkpoint, while Ray is still there.
trap 'kill -TERM $driver 2>/dev/null' TERM
code=143
while kill -0 $driver 2>/dev/null; do wait $driver; code=$?; done
end $code
