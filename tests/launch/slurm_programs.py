"""Stand-ins for Slurm on one machine: jobs run at once, their tasks are processes."""

from __future__ import annotations

from tests.launch.conftest import Stage

# Runs the job, and again while `scontrol requeue` has asked for it.
SBATCH = """
tasks=1 nodes=1 first=0 last=0
while [[ $1 == --* ]]; do
    case $1 in
        --ntasks-per-node=*) export SLURM_NTASKS_PER_NODE=${1#*=}; tasks=${1#*=} ;;
        --nodes=*) nodes=${1#*=} ;;
        --array=0-*) last=${1#*=0-}; export SLURM_ARRAY_TASK_COUNT=$((last + 1)) ;;
        --cpus-per-task=*) export SLURM_CPUS_PER_TASK=${1#*=} ;;
    esac
    shift
done
export SLURM_NTASKS=$((tasks * nodes)) SLURM_PROCID=0 SLURM_LOCALID=0
for ((task = first; task <= last; task++)); do
    export SLURM_JOB_ID=$((100 + task)) SLURM_ARRAY_TASK_ID=$task
    touch "$STAGE/requeue$SLURM_JOB_ID"
    while [ -e "$STAGE/requeue$SLURM_JOB_ID" ]; do
        rm "$STAGE/requeue$SLURM_JOB_ID"
        bash "$@" &
        echo $! >"$STAGE/job$SLURM_JOB_ID"
        wait $!
        status=$?
    done
done
exit $status
"""
# Starts the tasks; with --kill-on-bad-exit the first bad end is that of all.
SRUN = """
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_NODELIST=localhost
pids=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
    pids+=($!)
done
echo "${pids[@]}" >"$STAGE/tasks$SLURM_JOB_ID"
echo "${pids[@]}" >>"$STAGE/pids"
worst=0
for ((task = 0; task < SLURM_NTASKS; task++)); do
    wait -n
    status=$?
    ((status > worst)) && worst=$status
    ((status == 0)) || kill -KILL "${pids[@]}" 2>/dev/null
done
exit $worst
"""
SCANCEL = """
[ "$1" = --signal=TERM ] && kill -TERM $(cat "$STAGE/tasks$2")
"""
SCONTROL = """
[ "$1" = requeue ] && touch "$STAGE/requeue$2"
"""


def set_up(stage: Stage) -> None:
    """Puts sbatch, srun, scancel and scontrol on the stage."""
    for name, body in zip(
        ("sbatch", "srun", "scancel", "scontrol"), (SBATCH, SRUN, SCANCEL, SCONTROL)
    ):
        stage.program(name, body)
