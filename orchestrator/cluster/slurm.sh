#!/usr/bin/env bash
# A sweep on the nodes of one Slurm job. From the repository's root, which is in a folder that all nodes share:
#
#     sbatch --nodes=4 --gpus-per-node=1 orchestrator/cluster/slurm.sh utkface --store /shared/results/utkface
#
# Before the time limit or a preemption Slurm sends TERM: the sweep stops within seconds, the job goes back into the
# queue, and goes on from what is finished when it is started again.
#SBATCH --job-name=quantfair
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch, from the root of the repository}"
export PATH="$PWD/.venv/bin:$PATH" RAY_USAGE_STATS_ENABLED=0
# Without it whoever reaches a node's ports runs programs as you. srun hands both variables to every node.
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a node do not meet
address="$(getent ahostsv4 "${nodes[0]}" | awk 'NR == 1 {print $1}'):$port"

on_node() { # node, command: holds the whole node until this script ends
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" "${@:2}" &
}

start=(ray start --block "--num-cpus=${SLURM_CPUS_PER_TASK:-1}" "--num-gpus=${SLURM_GPUS_ON_NODE:-0}")
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
trap 'scontrol requeue "$SLURM_JOB_ID"; exit 143' TERM
on_node "${nodes[0]}" "${start[@]}" --head "--port=$port" --include-dashboard=false
timeout 300 bash -c "until ray status --address $address > /dev/null 2>&1; do sleep 1; done"
for node in "${nodes[@]:1}"; do
    on_node "$node" "${start[@]}" "--address=$address"
done

stopped=false
python -m orchestrator sweep "$@" --address "$address" --wait-for-nodes &
driver=$!
trap 'stopped=true; kill -TERM $driver 2> /dev/null || true' TERM
code=0
wait $driver || code=$?
if $stopped; then # `wait` ended with the signal: now for the driver itself
    wait $driver || code=$?
    scontrol requeue "$SLURM_JOB_ID" || true # where Slurm has done it already
fi
exit "$code"
