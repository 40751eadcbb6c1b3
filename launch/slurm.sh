#!/usr/bin/env bash
# Submits a run, or the preparation of its data, to Slurm.
#
#   [NODES=4] launch/slurm.sh [-n] train --config FILE --workdir DIR ...
#   [PROCESSES=32] launch/slurm.sh [-n] prepare SRC... OUT ...
#
# In the environment:
#   NODES      of the run; default 1
#   GPUS       of a node, one task for each; default 8, and for prepare 0; 0: one task on CPUs
#   CPUS       of a task; default 8
#   PROCESSES  tasks of prepare, an array job; default 1
#   SAVE_S     seconds before the time limit at which the run saves and goes back to the queue;
#              default 300
#   NAME       of the job; default cosyjax
#   LOGS       folder for output; default logs
#   RESTARTS, FRUITLESS, PAUSE_S, DRY_RUN: see launch/common.sh
# sbatch reads SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT, SBATCH_QOS and others itself.
#
# `cosyjax` must be on PATH, as after `source .venv/bin/activate`, and every path must mean the same
# on all nodes. A task that dies ends the others, and all start again in the same allocation. After
# the failure of a node or a preemption Slurm itself queues the job again.
set -u

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
read_arguments "$@"
NODES=${NODES:-1}
PROCESSES=${PROCESSES:-1}
CPUS=${CPUS:-8}
SAVE_S=${SAVE_S:-300}
NAME=${NAME:-cosyjax}
LOGS=${LOGS:-logs}
GPUS=${GPUS:-$([ "$verb" = train ] && echo 8 || echo 0)}
for variable in NODES PROCESSES CPUS; do
    whole_number "$variable" 1
done
whole_number GPUS 0
whole_number SAVE_S 0

home=$(cd "$(dirname "$0")/.." && pwd)
words=(sbatch "--job-name=$NAME" "--cpus-per-task=$CPUS" --requeue --open-mode=append)
words+=("--signal=B:USR1@$SAVE_S")
if [ "$verb" = train ]; then
    words+=("--nodes=$NODES" "--ntasks-per-node=$((GPUS ? GPUS : 1))" "--output=$LOGS/%x-%j.log")
else
    words+=("--array=0-$((PROCESSES - 1))" --nodes=1 --ntasks=1 "--output=$LOGS/%x-%A-%a.log")
fi
((GPUS == 0)) || words+=("--gpus-per-node=$GPUS")
words+=("$home/launch/slurm_job.sh" "$home" "$verb" "${arguments[@]}")

if [ -n "$DRY_RUN" ]; then
    shown "${words[@]}"
    exit 0
fi
export RESTARTS FRUITLESS PAUSE_S
mkdir -p "$LOGS"
exec "${words[@]}"
