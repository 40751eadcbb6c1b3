#!/usr/bin/env bash
# The job that launch/slurm.sh submits: starts the tasks, and starts them again when one dies.
#
#   launch/slurm_job.sh HOME train|prepare ...      inside an allocation; HOME is the repository
#
# SIGUSR1 (the time limit is near): the tasks are asked to save; the job goes back to the queue.
# SIGTERM (a preemption, or scancel): the tasks have it too, and Slurm alone decides what follows.
set -u

# Slurm runs a copy of this file from elsewhere, hence HOME.
# shellcheck source=launch/common.sh
source "$1/launch/common.sh"
read_arguments "${@:2}"
# srun does not take it from sbatch.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
if [ "$verb" = train ]; then
    # No --stopped-status: srun would kill the others at the first status that is not 0.
    words=(cosyjax train "${arguments[@]}")
else
    words=(cosyjax prepare "${arguments[@]}")
    words+=(--process "$SLURM_ARRAY_TASK_ID" --num-processes "$SLURM_ARRAY_TASK_COUNT")
fi

asked=''
ask_tasks() {
    asked=requeue
    # To the tasks and not to srun, which would kill them.
    scancel --signal=TERM "$SLURM_JOB_ID"
}

end_if_asked() {
    [ -n "$asked" ] || return 0
    if [ "$asked" = requeue ]; then
        # Also where the run has just ended: its next start sees that, and ends at once.
        say "the time is up at $(progress): back to the queue"
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$1"
}

trap ask_tasks USR1
trap 'asked=end' TERM
reached=$(progress)
while :; do
    srun --kill-on-bad-exit=1 "${words[@]}" &
    wait_through $!
    status=$?
    end_if_asked "$status"
    ((status)) || exit 0
    another_start "$status" || exit "$status"
    nap "$PAUSE_S"
    end_if_asked "$status"
done
